"""The data module over indexed shards: every sample once an epoch, in a repeatable order that can be resumed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor
from torch.utils.data import DataLoader

from ldm.batch import Skip
from ldm.data.base import DataModule
from ldm.data.dataset import Buckets, MomentsDataset, ShardDataset
from ldm.data.index import Index, index_shards
from ldm.data.order import Mixture, Order, Shuffled
from ldm.data.shards import find_shards
from ldm.data.steps import Bucketed, Consecutive, Pass, RankBatches, Steps, spread
from ldm.data.transforms import CaptionChoice, Crop, ImageTransform, LatentTransform, Transform


class Source(Protocol):
    """A data set that can be written."""

    def write(self) -> Path:
        """Write `train-*.tar` and `val-*.tar`, unless they are there; returns their folder."""


def written_shards(source: Source, split: str) -> list[str]:
    """Paths of the shards of a split, "train" or "val", which are written first unless they are there."""
    return sorted(str(path) for path in source.write().glob(f"{split}-*.tar"))


class CaptionedImages(DataModule):
    """Training and validation batches from tar shards of captioned images, or of their cached latents.

    train, val   shards: a brace pattern, a glob, a path, a URL, a command (`pipe:...`), or a list of them. For a mixture,
                 `train` is a list of {shards: ..., weight: ...}: how often each data set is drawn from
    crop, flip   see ImageTransform; validation is always cropped at the centre and never flipped
    filters      conditions on training samples, like "aesthetic > 5"; see Index
    buckets      None: squares; else {multiple: 64, max_ratio: 2.0}: training images keep about their aspect ratio,
                 and each batch is of one shape; see Buckets
    streams, window  of the shuffling; see Shuffled
    source       writes train and val shards at first use, instead of those two patterns
    cache_latents  hold the training images' latents in memory; for data that never change (centre crop, no flip)

    The others are those of DataModule.
    """

    def __init__(
        self,
        *,
        side: int,
        cache: str | Path,
        train: str | Sequence[str | Mapping[str, Any]] = (),
        val: str | Sequence[str] = (),
        crop: Crop = "center",
        flip: bool = False,
        caption: CaptionChoice | None = None,
        filters: Sequence[str] = (),
        buckets: Mapping[str, Any] | None = None,
        streams: int = 1,
        window: int = 100_000,
        source: Source | None = None,
        cache_latents: bool = False,
        max_broken: float = 0.01,
        workers: int = 0,
        seed: int = 0,
    ) -> None:
        if source is not None:
            train, val = (written_shards(source, split) for split in ("train", "val"))
        caption = caption or CaptionChoice()
        super().__init__(
            side=side,
            val=val,
            cache=Path(cache),
            caption=caption,
            max_broken=max_broken,
            workers=workers,
            seed=seed,
        )
        self.source = source
        self.cache_latents = cache_latents
        index, self.order = _open(train, Path(cache), filters=filters, streams=streams, window=window, seed=seed)
        self.health.check_index(index)
        if buckets is not None and isinstance(self.order, Mixture):
            raise ValueError(
                "a mixture has no buckets: how many samples of each it draws in an epoch varies; choose one"
            )
        chosen = None if buckets is None else Buckets.choose(index, side, **buckets)
        transform = _transform(index, side, crop, flip, cache_latents=cache_latents, buckets=chosen)
        self.train_set = ShardDataset(index, transform, caption, seed=seed, varied=True, buckets=chosen)
        self.moments: MomentsDataset | None = None

    @property
    def encoding(self) -> dict[str, str]:
        return self.train_set.index.encoding

    def captions(self, limit: int) -> Iterator[str]:
        return (self.train_set.caption_of(number) for number in spread(len(self.train_set), limit))

    def broken_captions(self, limit: int) -> tuple[list[Skip], int]:
        numbers = spread(len(self.train_set), limit)
        return self.train_set.broken_captions(numbers), len(numbers)

    def check_batch(self, world: int) -> None:
        self._stream(0, world)

    def training_pass(self, batch_size: int, *, rank: int = 0, world: int = 1, limit: int | None = None) -> DataLoader:
        return self.loader(self.train_set, Pass(len(self.train_set), batch_size, rank=rank, world=world, limit=limit))

    def hold(self, encode: Callable[[Tensor], Tensor], batch_size: int) -> None:
        if self.cache_latents:
            parts = [
                batch._replace(image=None, moments=encode(batch.image)) for batch in self.training_pass(batch_size)
            ]
            self.moments = MomentsDataset(parts)

    def train_dataloader(self) -> DataLoader:
        stream = self._stream(*self.place())
        if self.moments is not None:
            return self.loader(self.moments, stream, workers=0)
        return self.loader(self.train_set, stream)

    def state_dict(self) -> dict[str, Any]:
        """How many optimiser steps' samples training has consumed, and of which shards."""
        steps = self.trainer.global_step if self.trainer is not None else self.position
        return {"position": steps, "shards": self.train_set.index.fingerprint}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where the state was taken. Raises ValueError where the training shards are others now."""
        if state_dict["shards"] != self.train_set.index.fingerprint:
            raise ValueError(
                "the training shards, or what is in them, have changed since the checkpoint of this run was written, and "
                "with them the order of samples; put them back, or choose another name= to train anew"
            )
        self.position = state_dict["position"]

    def _stream(self, rank: int, world: int) -> RankBatches:
        size, buckets = self.images_per_step, self.train_set.buckets
        steps: Steps = Consecutive(self.order, size) if buckets is None else Bucketed(self.order, size, buckets.chosen)
        return RankBatches(steps, accumulate=self.accumulate, rank=rank, world=world, position=self.position)


def _open(
    pattern: str | Sequence[str | Mapping[str, Any]],
    cache: Path,
    *,
    seed: int,
    filters: Sequence[str] = (),
    streams: int = 1,
    window: int = 100_000,
) -> tuple[Index, Order]:
    """The samples of a data set, or of the data sets of a mixture, and the order in which they are seen."""
    parts = [pattern] if isinstance(pattern, str) else list(pattern)
    weights = [part["weight"] for part in parts if isinstance(part, Mapping)]
    if weights and len(weights) != len(parts):
        raise ValueError(f"in a mixture every data set has a weight: [{{shards: ..., weight: 1}}, ...]; got {parts}")
    groups = [part["shards"] for part in parts if isinstance(part, Mapping)] or [parts]
    found = [find_shards(group, cache / "shards") for group in groups]
    index = Index(index_shards([shard for shards in found for shard in shards], cache / "index"), filters)
    orders: list[Order] = []
    first, start = 0, 0
    for shards in found:
        counts = index.counts[start : start + len(shards)]
        orders.append(Shuffled(counts, seed=seed + len(orders), streams=streams, window=window, first=first))
        first, start = first + int(counts.sum()), start + len(shards)
    return index, Mixture(orders, weights, seed=seed) if weights else orders[0]


def _transform(
    index: Index, side: int, crop: Crop, flip: bool, *, cache_latents: bool, buckets: Buckets | None
) -> Transform:
    """Of images or of latents, whichever the shards hold. Raises ValueError where they cannot be had as is asked for."""
    made = index.encoding
    if made and (crop != "center" or buckets is not None):
        raise ValueError("latents were cut when they were made; set data.crop=center and data.buckets=null")
    if made and made["side"] != str(side):
        raise ValueError(f"the latents were made at side {made['side']}; set data.side={made['side']}")
    if made and flip and made["flip"] != "true":
        raise ValueError("the latents have no flipped twins; encode with flip=true, or set data.flip=false")
    if cache_latents and made:
        raise ValueError("these are latents already; set data.cache_latents=false")
    if cache_latents and (crop != "center" or flip or buckets is not None):
        raise ValueError(
            "latents can be cached only where images never change; set data.cache_latents=false, "
            "or data.crop=center data.flip=false data.buckets=null"
        )
    return LatentTransform(flip=flip) if made else ImageTransform(side, crop=crop, flip=flip)
