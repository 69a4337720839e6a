"""Reading samples from shards by their numbers, broken ones replaced; and collating them."""

from __future__ import annotations

import math
import os
import random
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch.utils.data import Dataset

from ldm.batch import Batch, Condition, Size, Skip, as_size
from ldm.data.decode import Broken
from ldm.data.order.shuffle import Draw
from ldm.data.shards.dataset_index import Index
from ldm.data.shards.grouping import Sample
from ldm.data.shards.members import ABSENT, Extent
from ldm.data.shards.shard_index import stamp_of
from ldm.data.transforms import CaptionChoice, Item, Transform
from ldm.options import COUNT, Real, check
from ldm.picture import from_levels

OPEN_SHARDS = 512
"""Shards that a process keeps open at once."""

SUBSTITUTES = 20
"""So many samples in a row may be broken."""

NO_CHANCE = random.Random(0)
"""Given to transforms that draw nothing."""


class Buckets:
    """Which size each sample has in a batch, so that images of one batch are of one shape.

    sizes   those there are
    chosen  of each sample, its number in `sizes`, `(N,)`
    """

    def __init__(self, sizes: Sequence[Size], chosen: np.ndarray) -> None:
        self.sizes = list(sizes)
        self.chosen = chosen

    @staticmethod
    def check(size: int | Sequence[int], *, multiple: int, max_ratio: float) -> None:
        """Raise ValueError where there are no such buckets; see `choose`."""
        check("data.buckets.multiple", multiple, COUNT)
        check("data.buckets.max_ratio", max_ratio, Real(1.0))
        size = as_size(size)
        if size.height % multiple or size.width % multiple:
            raise ValueError(
                f"buckets need a size that is a multiple of `multiple`; got size={size}, multiple={multiple}"
            )

    @classmethod
    def choose(cls, index: Index, size: int | Sequence[int], *, multiple: int, max_ratio: float) -> Buckets:
        """For each sample the size of the nearest aspect ratio among those with about as many pixels.

        multiple   heights and widths are multiples of this
        max_ratio  of the longer to the shorter side
        """
        cls.check(size, multiple=multiple, max_ratio=max_ratio)
        pixels = math.prod(as_size(size))
        heights = range(multiple, math.isqrt(pixels) + 1, multiple)
        wide = [Size(height, round(pixels / height / multiple) * multiple) for height in heights]
        wide = [size for size in wide if size.width <= max_ratio * size.height]
        sizes = sorted({*wide, *(Size(*reversed(size)) for size in wide)}, key=lambda size: size.width / size.height)
        ratios = np.log([size.width / size.height for size in sizes])
        nearest = np.searchsorted((ratios[1:] + ratios[:-1]) / 2, np.log(index.column("ratio")))
        return cls(sizes, nearest.astype(np.uint8))


class ShardDataset(Dataset):
    """Random access to the samples of some shards. Each process reads by its own file handles.

    The crop, flip and caption of a sample depend on seed, epoch and number alone. In the place of a broken sample stands
    another, drawn by the same three, and the batch says so.

    transform  of image or latent
    caption    where captions come from
    varied     whether captions are chosen at random where there are several; else always the same
    """

    def __init__(
        self,
        index: Index,
        transform: Transform,
        caption: CaptionChoice,
        *,
        seed: int = 0,
        varied: bool = False,
        buckets: Buckets | None = None,
    ) -> None:
        self.index = index
        self.transform = transform
        self.caption = caption
        self.seed = seed
        self.varied = varied
        self.buckets = buckets
        self._handles: OrderedDict[tuple[int, str], int] = OrderedDict()

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, draw: Draw) -> Item:
        size = None if self.buckets is None else self.buckets.sizes[self.buckets.chosen[draw.number]]
        skipped: list[Skip] = []
        for number in self._candidates(draw):
            sample = self.index[number]
            try:
                return self._item(sample, Draw(draw.epoch, number), size)._replace(skipped=skipped)
            except Broken as broken:
                skipped.append(Skip(sample.shard, sample.key, broken.reason))
        raise self._hopeless(skipped)

    def exactly(self, numbers: Sequence[int]) -> tuple[Batch, list[dict[str, bytes]]]:
        """These very samples of epoch 0, without substitutes, and their texts; broken ones are in `skipped` alone."""
        items, texts, skipped = [], [], []
        for number in numbers:
            sample = self.index[number]
            try:
                item, text = self._item(sample, Draw(0, number), None), self._texts(sample)
            except Broken as broken:
                skipped.append(Skip(sample.shard, sample.key, broken.reason))
                continue
            items.append(item)
            texts.append(text)
        return collate(items)._replace(skipped=skipped), texts

    def caption_of(self, number: int) -> str:
        """The caption of a sample, or of its substitute, without decoding its image."""
        skipped: list[Skip] = []
        for candidate in self._candidates(Draw(0, number)):
            sample = self.index[candidate]
            try:
                return self._caption(sample, None)
            except Broken as broken:
                skipped.append(Skip(sample.shard, sample.key, broken.reason))
        raise self._hopeless(skipped)

    def broken_captions(self, numbers: Sequence[int]) -> list[Skip]:
        """Which of some samples have no caption."""
        skipped = []
        for number in numbers:
            sample = self.index[number]
            try:
                self._caption(sample, None)
            except Broken as broken:
                skipped.append(Skip(sample.shard, sample.key, broken.reason))
        return skipped

    def _candidates(self, draw: Draw) -> Iterator[int]:
        """The sample itself, then its substitutes."""
        yield draw.number
        chance = random.Random(f"{self.seed}/{draw.epoch}/{draw.number}/substitute")
        for _ in range(SUBSTITUTES):
            yield chance.randrange(len(self))

    def _hopeless(self, skipped: Sequence[Skip]) -> ValueError:
        named = "; ".join(f"{skip.key!r} in {skip.shard}: {skip.reason}" for skip in skipped[:3])
        return ValueError(f"{len(skipped)} samples drawn one after the other cannot be used ({named}); mend the shards")

    def _item(self, sample: Sample, draw: Draw, size: Size | None) -> Item:
        name = f"{self.seed}/{draw.epoch}/{draw.number}"
        caption = self._caption(sample, (lambda: random.Random(f"{name}/caption")) if self.varied else None)
        chance = NO_CHANCE if self.transform.deterministic else random.Random(name)
        data = self._read(sample, sample.image)
        assert data is not None
        return self.transform(data, chance, size)._replace(key=sample.key, caption=caption)

    def _texts(self, sample: Sample) -> dict[str, bytes]:
        """The files of a sample beside its image, by ending, as they are."""
        found = {"txt": self._read(sample, sample.text), "json": self._read(sample, sample.record)}
        return {ending: data for ending, data in found.items() if data is not None}

    def _caption(self, sample: Sample, chance: Callable[[], random.Random] | None) -> str:
        return self.caption(self._read(sample, sample.text), self._read(sample, sample.record), chance)

    def _read(self, sample: Sample, extent: Extent) -> bytes | None:
        if extent == ABSENT:
            return None
        try:
            data = os.pread(self._handle(sample.shard), extent.size, extent.offset)
        except OSError as error:
            raise Broken("unreadable shard", str(error)) from error
        if len(data) < extent.size:
            raise Broken("shard cut off")
        return data

    def _handle(self, shard: str) -> int:
        place = (os.getpid(), shard)
        if place not in self._handles:
            if len(self._handles) >= OPEN_SHARDS:
                os.close(self._handles.popitem(last=False)[1])
            handle = os.open(shard, os.O_RDONLY)
            if stamp_of(os.fstat(handle)) != self.index.stamps[shard]:
                os.close(handle)
                raise Broken("shard changed since it was indexed")
            self._handles[place] = handle
        self._handles.move_to_end(place)
        return self._handles[place]


class MomentsDataset(Dataset):
    """Samples held in memory with their latent moments.

    batches  all of a data set in order, with `moments` instead of images
    """

    def __init__(self, batches: Sequence[Batch]) -> None:
        self.key = [key for batch in batches for key in batch.key]
        self.caption = [caption for batch in batches for caption in batch.caption]
        self.moments = torch.cat([batch.moments for batch in batches if batch.moments is not None])
        self.geometry = torch.cat([batch.geometry for batch in batches if batch.geometry is not None])

    def __len__(self) -> int:
        return len(self.key)

    def __getitem__(self, draw: Draw) -> Item:
        number = draw.number
        return Item(
            key=self.key[number],
            caption=self.caption[number],
            moments=self.moments[number],
            geometry=self.geometry[number].tolist(),
        )


def collate(items: Sequence[Item]) -> Batch:
    """Items -> a batch, whose image is still `(B, H, W, 3)` uint8: small on its way; see `finish`."""
    levels = [item.levels for item in items if item.levels is not None]
    moments = [item.moments for item in items if item.moments is not None]
    texts = [item.text for item in items if item.text is not None]
    geometry = [item.geometry for item in items if item.geometry]
    return Batch(
        key=[item.key for item in items],
        caption=[item.caption for item in items],
        image=torch.from_numpy(np.stack(levels)) if levels else None,
        moments=torch.stack(moments) if moments else None,
        geometry=torch.tensor(geometry) if geometry else None,
        text=Condition.cat(texts) if texts else None,
        skipped=[skip for item in items for skip in item.skipped],
    )


def finish(batch: Batch, device: torch.device | str = "cpu") -> Batch:
    """Levels -> images in [-1, 1], made where they are used."""
    if batch.image is None:
        return batch
    levels = batch.image.to(device, non_blocking=True)
    return batch._replace(image=from_levels(levels.permute(0, 3, 1, 2)))
