"""Shards read from front to back without an index: endless, for data about which nothing is known beforehand."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import webdataset
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from ldm.batch import Batch, Fields, SkippedSample
from ldm.data.base import DataModule
from ldm.data.dataset import Item
from ldm.data.decode import Broken
from ldm.data.degradations.base import Degradation
from ldm.data.fields.base import FieldReader, Files, take_images_alone
from ldm.data.fields.sample import SampleFields, collate_fields
from ldm.data.foreign_moments import is_array
from ldm.data.latents import read_encoding
from ldm.data.loader import Loader
from ldm.data.masks.base import MaskGenerator
from ldm.data.option_rules import OPTIONS
from ldm.data.shards.grouping import NO_CAPTION, Leftover
from ldm.data.shards.names import NO_TRAINING, name_shards
from ldm.data.shards.shard_index import ShardSummary
from ldm.data.shards.shard_reader import RawSample, ShardReader
from ldm.data.transforms import CaptionChoice, Crop, ImageTransform, Transform
from ldm.options.rule import check_all

MOST_SKIPPED = 1000
"""The largest number of broken samples in a row."""


def _hopeless(last: SkippedSample, count: int) -> str:
    where = f"{last.shard} {last.key}".strip()
    return f"{count} samples or shards in a row cannot be used, the last is {where}: {last.why}; mend or leave them out"


def _broken(skipped: Sequence[SkippedSample]) -> list[SkippedSample]:
    return [skip for skip in skipped if not isinstance(skip, Leftover)]


def _captionless(lost: list[SkippedSample]) -> Iterator[SkippedSample]:
    """Yield those of what a reader left out that have no caption; the list is emptied."""
    yield from (skip for skip in lost if skip.reason == NO_CAPTION)
    lost.clear()


class ShardStream(IterableDataset[Item]):
    """Samples of shards drawn at random, again and again, through webdataset's openers; the shards may be URLs or commands.

    Seed, start, rank and worker decide which samples come. There are no epochs. A run that continues sees other samples than
    an uninterrupted one would have seen, since without an index nothing is known but what has been read.

    Args:
        shards: Paths, URLs or commands.
        transform: Makes the image.
        readers: Read the other fields.
        seed: The seed of all that is random.
        buffer: Samples held to be shuffled, by each worker.
        rank: The rank of this process.
        start: Optimiser steps already made.
    """

    def __init__(
        self,
        shards: Sequence[str],
        transform: Transform,
        readers: Sequence[FieldReader],
        *,
        seed: int,
        buffer: int = 1000,
        rank: int = 0,
        start: int = 0,
    ) -> None:
        self.shards = list(shards)
        self.fields = SampleFields(transform, readers)
        self.endings = {ending for reader in readers for ending in reader.endings}
        self.alone = take_images_alone(readers)
        self.seed = seed
        self.buffer = buffer
        self.rank = rank
        self.start = start

    def __iter__(self) -> Iterator[Item]:
        """Items, without end. Raises ValueError where whole rounds of shards give no sample."""
        worker = get_worker_info()
        rng = random.Random(f"{self.seed}/{self.start}/{self.rank}/{worker.id if worker else 0}")
        skipped: list[SkippedSample] = []
        lost: list[SkippedSample] = []
        samples = webdataset.shuffle(self.buffer, initial=min(100, self.buffer), rng=rng)(self._samples(rng, lost))
        for sample in samples:
            skipped += lost
            lost.clear()
            try:
                item = self._decode(sample, rng)
            except Broken as broken:
                skipped.append(SkippedSample(sample.shard, sample.key, broken.reason, broken.detail))
                if (count := len(_broken(skipped))) > MOST_SKIPPED:
                    raise ValueError(_hopeless(skipped[-1], count)) from broken
                continue
            yield item._replace(skipped=skipped)
            skipped = []

    def without_images(self, limit: int) -> Iterator[tuple[str, Fields] | SkippedSample]:
        """Yield key and fields of at most `limit` samples from the front of the shards, each by itself (B is 1).

        In the place of a sample that lacks a field stands where it is.
        """
        return islice(self._without_images(), limit)

    def _without_images(self) -> Iterator[tuple[str, Fields] | SkippedSample]:
        for shard in self.shards:
            lost: list[SkippedSample] = []
            for sample in ShardReader(shard, lost, self.endings, alone=self.alone):
                yield from _captionless(lost)
                try:
                    generators = partial(_generator, self.seed, sample.key)
                    values = self.fields.read_without_image(*_parts(sample), computed=generators)
                    yield sample.key, collate_fields([values])
                except Broken as broken:
                    yield SkippedSample(sample.shard, sample.key, broken.reason, broken.detail)
            yield from _captionless(lost)

    def _decode(self, sample: RawSample, rng: random.Random) -> Item:
        if read_encoding(sample.image) is not None:
            raise Broken("cached latent, which only data=latents reads")
        if is_array(sample.image):
            raise Broken("array of moments, which only data=moments reads")
        files, image = _parts(sample)
        fields = self.fields.read(files, image, choose=lambda: rng, rng=lambda: rng, computed=lambda field: rng)
        return Item(sample.key, fields)

    def _samples(self, rng: random.Random, lost: list[SkippedSample]) -> Iterator[RawSample]:
        """Yield raw samples of random shards without end; shards that cannot be read to their end go into `lost`."""
        fruitless = 0
        while fruitless <= 10 * len(self.shards):
            fruitless += 1
            for sample in ShardReader(rng.choice(self.shards), lost, self.endings, alone=self.alone):
                fruitless = 0
                yield sample
        broken = _broken(lost)
        raise ValueError(
            _hopeless(broken[-1] if broken else SkippedSample(self.shards[0], "", "no samples"), len(broken))
        )


def _generator(seed: int, key: str, field: str) -> random.Random:
    """Return the generator of a computed field of a sample that is looked at before training."""
    return random.Random(f"{seed}/0/{key}/{field}")


def _parts(sample: RawSample) -> tuple[Files, Callable[[], bytes]]:
    """The files of a sample beside its image, and what gives its image."""
    there = {"txt": sample.text, "json": sample.record, **sample.parts}
    return Files(there.get), lambda: sample.image


class StreamedImages(DataModule):
    """Training batches from shards without an index, validation images from shards with one.

    Args:
        size: See `DataModule`; so are cache, caption, fields, degradation, mask, val_images, max_broken, workers and
            seed.
        train: Shards: a brace pattern, a path, a URL, a command (`pipe:...`), or a list of them.
        val: Shards, named in the same ways.
        crop: See `ImageTransform`.
        flip: See `ImageTransform`.
        buffer: Samples that each worker holds to shuffle them.
    """

    def __init__(
        self,
        *,
        size: int | Sequence[int],
        cache: str | Path,
        train: str | Sequence[str] | None,
        val: str | Sequence[str],
        crop: Crop = "center",
        flip: bool = False,
        caption: CaptionChoice | None = None,
        fields: Sequence[str | FieldReader] | None = None,
        degradation: Degradation | None = None,
        mask: MaskGenerator | None = None,
        buffer: int = 1000,
        val_images: int | None = None,
        max_broken: float = 0.01,
        workers: int = 0,
        seed: int = 0,
    ) -> None:
        check_all({"data": {"crop": crop, "flip": flip, "buffer": buffer}}, OPTIONS)
        super().__init__(
            size=size,
            cache=Path(cache),
            caption=caption or CaptionChoice(),
            fields=fields,
            degradation=degradation,
            mask=mask,
            val_images=val_images,
            max_broken=max_broken,
            workers=workers,
            seed=seed,
        )
        self.val_shards = name_shards(val)
        self.shards = [] if train is None else name_shards(train)
        self.transform = ImageTransform(size, crop=crop, flip=flip)
        self.buffer = buffer

    def name_val(self) -> list[str]:
        """See `DataModule.name_val`."""
        return self.val_shards

    def open_training(self, val: Mapping[str, ShardSummary]) -> None:
        """Warn about validation shards that are also trained on; nothing is opened."""
        if not self.shards:
            raise ValueError(NO_TRAINING)
        self.warn_of_shared(self.shards, val, {})

    def training_buckets(self) -> None:
        """Return None: without an index, the shapes of images are not known before they are read."""

    @property
    def encoding(self) -> dict[str, str]:
        """Return nothing: only images are streamed."""
        return {}

    def samples(self, fields: Iterable[str], limit: int) -> Iterator[tuple[str, Fields]]:
        """See `DataModule.samples`."""
        readers = self.choose(fields)
        found = self._from(0, readers).without_images(limit)
        return (sample for sample in found if not isinstance(sample, SkippedSample))

    def broken(self, limit: int) -> tuple[list[SkippedSample], int]:
        """See `DataModule.broken`."""
        found = list(self._from(0).without_images(limit))
        return [skip for skip in found if isinstance(skip, SkippedSample)], len(found)

    def check_batch(self, world: int) -> None:
        """Do nothing: without an index, it is not known how many samples there are."""

    def training_pass(
        self, batch_size: int, *, rank: int = 0, world: int = 1, limit: int | None = None
    ) -> Iterable[Batch]:
        """See `DataModule.training_pass`; `limit` must be given."""
        if limit is None:
            raise ValueError(
                "without an index there is no end of the data: set stage.autoencoder.statistics_batches=1000"
            )
        return islice(self.loader(self._from(rank)), -(-limit // (batch_size * world)))

    def cache_latents(self, encode: Callable[[Tensor], Tensor], batch_size: int) -> None:
        """Do nothing: a stream has no end, so its latents are not held."""

    def train_dataloader(self) -> Loader:
        """Return the training batches of this rank, from where training stands."""
        return self.loader(self._from(self.place()[0]))

    def state_dict(self) -> dict[str, Any]:
        """Return the number of optimiser steps that were made."""
        return {"position": self.trainer.global_step if self.trainer is not None else self.position}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue with samples other than the first ones."""
        self.position = state_dict["position"]

    def _from(self, rank: int, readers: Sequence[FieldReader] | None = None) -> ShardStream:
        options = {"seed": self.seed, "buffer": self.buffer, "rank": rank, "start": self.position}
        return ShardStream(self.shards, self.transform, self.readers if readers is None else readers, **options)
