"""Reading shards in an order that is a function of seed and epoch alone."""

from __future__ import annotations

import os
import random
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from ldm.batch import Batch
from ldm.data.shards import Extent, Sample
from ldm.data.transforms import CaptionChoice, ImageTransform

OPEN_SHARDS = 64
"""Shards that a process keeps open at once."""


class Draw(NamedTuple):
    """Which sample to read, and in which epoch: the epoch decides random crops and flips."""

    epoch: int
    number: int


class ShardDataset(Dataset):
    """Random access to the samples of some shards. Each process reads by its own file handles.

    The crop and flip of a sample depend on seed, epoch and index alone.
    """

    def __init__(
        self, samples: Sequence[Sample], transform: ImageTransform, caption: CaptionChoice, *, seed: int = 0
    ) -> None:
        self.samples = samples
        self.transform = transform
        self.caption = caption
        self.seed = seed
        self._handles: OrderedDict[tuple[int, str], int] = OrderedDict()

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, draw: Draw) -> Batch:
        """A batch of one, without the leading dimension."""
        sample = self.samples[draw.number]
        chance = random.Random(f"{self.seed}/{draw.epoch}/{draw.number}")
        data = self._read(sample, sample.image)
        try:
            image = self.transform(data, chance)
        except OSError as error:
            raise ValueError(
                f"sample {sample.key!r} in {sample.shard} cannot be decoded: {error}; leave it out"
            ) from error
        return Batch(key=[sample.key], caption=[self.caption_of(draw.number)], image=image[None])

    def caption_of(self, index: int) -> str:
        """The caption of a sample, without decoding its image."""
        sample = self.samples[index]
        text, record = (
            self._read(sample, sample.files[ending]) if ending in sample.files else None for ending in ("txt", "json")
        )
        return self.caption(text, record, f"sample {sample.key!r} in {sample.shard}")

    def _read(self, sample: Sample, extent: Extent) -> bytes:
        place = (os.getpid(), sample.shard)
        if place not in self._handles:
            if len(self._handles) >= OPEN_SHARDS:
                os.close(self._handles.popitem(last=False)[1])
            self._handles[place] = os.open(sample.shard, os.O_RDONLY)
        self._handles.move_to_end(place)
        return os.pread(self._handles[place], extent.size, extent.offset)


class MomentsDataset(Dataset):
    """The samples of another data set with their images' latent moments `(N, 2C, h, w)`, computed once."""

    def __init__(self, images: ShardDataset, moments: Tensor) -> None:
        self.images = images
        self.moments = moments
        self.captions = [images.caption_of(index) for index in range(len(images))]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, draw: Draw) -> Batch:
        key = self.images.samples[draw.number].key
        return Batch(key=[key], caption=[self.captions[draw.number]], moments=self.moments[draw.number][None])


class BatchStream(Sampler[list[Draw]]):
    """Deals batches to ranks: an endless sequence of epochs, each a permutation of the samples.

    Global batch k of epoch e is the same whatever the number of ranks and workers; rank r takes each `world`-th sample
    of it, from the r-th. The remainder of an epoch that fills no global batch is left out, so that every rank makes the
    same number of steps. Iterating gives the rest of the epoch that `position` lies in.

    samples     number of samples
    batch_size  of one rank
    position    global batches already consumed since the start of training
    """

    def __init__(
        self, samples: int, batch_size: int, *, rank: int = 0, world: int = 1, seed: int = 0, position: int = 0
    ) -> None:
        self.samples = samples
        self.batch_size = batch_size
        self.rank = rank
        self.world = world
        self.seed = seed
        self.position = position
        self.batches_per_epoch = samples // (batch_size * world)
        if not self.batches_per_epoch:
            raise ValueError(
                f"{samples} samples do not fill one batch of {batch_size} on each of {world} processes; "
                "lower the batch size or add data"
            )

    def __len__(self) -> int:
        return self.batches_per_epoch

    def __iter__(self) -> Iterator[list[Draw]]:
        epoch, first = divmod(self.position, self.batches_per_epoch)
        order = np.random.default_rng([self.seed, epoch]).permutation(self.samples)
        size = self.batch_size * self.world
        self.position = (epoch + 1) * self.batches_per_epoch
        for batch in range(first, self.batches_per_epoch):
            yield [
                Draw(epoch, int(index)) for index in order[batch * size + self.rank : (batch + 1) * size : self.world]
            ]


class Pass(Sampler[list[Draw]]):
    """One pass in order, every sample once: rank r takes each `world`-th from the r-th, the last batch may be short.

    limit  at most about so many samples, evenly spread; None: all
    """

    def __init__(
        self, samples: int, batch_size: int, *, rank: int = 0, world: int = 1, limit: int | None = None
    ) -> None:
        stride = 1 if limit is None else max(1, samples // limit)
        self.indices = range(samples)[::stride][rank:limit:world]
        self.batch_size = batch_size

    def __len__(self) -> int:
        return -(-len(self.indices) // self.batch_size)

    def __iter__(self) -> Iterator[list[Draw]]:
        for start in range(0, len(self.indices), self.batch_size):
            yield [Draw(0, index) for index in self.indices[start : start + self.batch_size]]
