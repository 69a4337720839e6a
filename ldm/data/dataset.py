"""Reading samples from shards by their numbers, broken ones replaced; and collating them."""

from __future__ import annotations

import os
import random
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch.utils.data import Dataset

from ldm.batch import Batch, Fields, Size, SkippedSample, tensor_field
from ldm.data.buckets import Buckets
from ldm.data.decode import Broken, open_image
from ldm.data.fields.base import FieldReader, Files
from ldm.data.fields.sample import NO_RNG, SampleFields, collate_fields
from ldm.data.order.batch_sampler import SequentialBatchSampler
from ldm.data.order.shuffle import SampleRef
from ldm.data.shards.dataset_index import DatasetIndex
from ldm.data.shards.grouping import Sample
from ldm.data.shards.members import ABSENT, ByteRange
from ldm.data.shards.names import IMAGE_ENDINGS
from ldm.data.shards.shard_index import stamp_of
from ldm.data.transforms import Transform
from ldm.files.picture import from_levels

OPEN_SHARDS = 512
"""Shards that a process keeps open at once."""

SUBSTITUTES = 20
"""The largest number of broken samples in a row."""


class Item(NamedTuple):
    """One sample on its way into a batch.

    Attributes:
        key: Its name.
        fields: Its fields; the image still as levels `(H, W, 3)` uint8.
        skipped: Broken samples in whose place it stands.
    """

    key: str
    fields: dict[str, Any]
    skipped: Sequence[SkippedSample] = ()


class ShardDataset(Dataset[Item]):
    """Random access to the samples of some shards. Each process reads by its own file handles.

    The crop, flip and caption of a sample depend on seed, epoch and number alone; its computed fields, like `mask`, depend on
    seed, epoch and key. A broken sample is replaced by another one, which seed, epoch and number decide, and the batch says so.

    Args:
        index: The samples.
        transform: Makes the image or latent.
        readers: Read the other fields.
        seed: The seed of all that is random.
        varied: Whether captions are chosen at random where there are several; else they are always the same.
        buckets: The size of each sample; None: all have that of the transform.
    """

    def __init__(
        self,
        index: DatasetIndex,
        transform: Transform,
        readers: Sequence[FieldReader],
        *,
        seed: int = 0,
        varied: bool = False,
        buckets: Buckets | None = None,
    ) -> None:
        self.index = index
        self.transform = transform
        self.readers = list(readers)
        self.fields = SampleFields(transform, readers)
        self.seed = seed
        self.varied = varied
        self.buckets = buckets
        self._handles: OrderedDict[tuple[int, str], int] = OrderedDict()

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, draw: SampleRef) -> Item:
        return self.find(draw)[1]

    def find(self, draw: SampleRef) -> tuple[int, Item]:
        """Return the number of the sample that a draw gives, which is a substitute's where that is broken, and the item."""
        size = self.size_of(draw.number)
        skipped: list[SkippedSample] = []
        for number in self._candidates(draw):
            sample = self.index[number]
            try:
                return number, self._item(sample, SampleRef(draw.epoch, number), size)._replace(skipped=skipped)
            except Broken as broken:
                skipped.append(SkippedSample(sample.shard, sample.key, broken.reason, broken.detail))
        raise self._hopeless(skipped)

    def exactly(self, numbers: Sequence[int]) -> tuple[Batch, list[dict[str, bytes]]]:
        """Return these very samples of epoch 0, without substitutes, and their other files by ending.

        Broken samples are in `skipped` alone.
        """
        items, files, skipped = [], [], []
        for number in numbers:
            sample = self.index[number]
            try:
                item, others = self._item(sample, SampleRef(0, number), self.size_of(number)), self._files_of(sample)
            except Broken as broken:
                skipped.append(SkippedSample(sample.shard, sample.key, broken.reason, broken.detail))
                continue
            items.append(item)
            files.append(others)
        return collate(items)._replace(skipped=skipped), files

    def stored(self, number: int) -> dict[str, bytes]:
        """Return the files of a sample as they are, by ending, its image among them. Raises Broken."""
        sample = self.index[number]
        image = self._image(sample)
        form = str(open_image(image).format).lower()
        # whatever the ending, the image is read by its bytes
        ending = {"jpeg": "jpg"}.get(form, form if form in IMAGE_ENDINGS else "png")
        return {ending: image, **self._files_of(sample)}

    def fields_of(self, numbers: Iterable[int], readers: Sequence[FieldReader] | None = None) -> Fields:
        """Return the fields of some samples, or of their substitutes, without decoding their images.

        Args:
            numbers: Numbers of the samples.
            readers: Readers of the fields; None: all that the data set has.
        """
        fields = self.fields if readers is None else SampleFields(self.transform, readers)
        return collate_fields([self._keyed_fields(number, fields)[1] for number in numbers])

    def keyed_fields(self, numbers: Iterable[int], readers: Sequence[FieldReader]) -> Iterator[tuple[str, Fields]]:
        """Yield key and fields, as `fields_of` gives them, of samples or their substitutes, each by itself (B is 1)."""
        fields = SampleFields(self.transform, readers)
        for number in numbers:
            key, values = self._keyed_fields(number, fields)
            yield key, collate_fields([values])

    def size_of(self, number: int) -> Size | None:
        """Return height and width of the image of a sample: those of its bucket; None: those of the transform."""
        return None if self.buckets is None else self.buckets.size_of(number)

    def whole_fields(self, numbers: Sequence[int], *, image: bool) -> Fields:
        """Return the fields of some samples, or of their substitutes, and their names as the field `key`.

        Args:
            numbers: Numbers of the samples, which have one size.
            image: Whether `image` is one of the fields; decoding images takes time.
        """
        if image:
            batch = finish(collate([self[SampleRef(0, number)] for number in numbers]))
            return {**batch.fields, "key": batch.key}
        keys, values = zip(*(self._keyed_fields(number, self.fields) for number in numbers), strict=True)
        return {**collate_fields(values), "key": list(keys)}

    def vary(self, draw: SampleRef) -> dict[str, Any]:
        """Return those fields of a sample that are chosen anew in each epoch; empty where there are none, or none any more."""
        sample = self.index[draw.number]
        try:
            return self.fields.vary(
                self._files(sample),
                partial(self._image, sample),
                choose=lambda: random.Random(f"{self._name(draw)}/caption"),
                computed=partial(self._generator, draw.epoch, sample.key),
            )
        except Broken:
            return {}

    def broken(self, numbers: Iterable[int], readers: Sequence[FieldReader] | None = None) -> list[SkippedSample]:
        """Return those of some samples that lack a field, or have one that cannot be read.

        Args:
            numbers: Numbers of the samples.
            readers: Readers of the fields; None: all that the data set has.
        """
        fields = self.fields if readers is None else SampleFields(self.transform, readers)
        skipped = []
        for number in numbers:
            sample = self.index[number]
            try:
                fields.check(self._files(sample))
            except Broken as broken:
                skipped.append(SkippedSample(sample.shard, sample.key, broken.reason, broken.detail))
        return skipped

    def _keyed_fields(self, number: int, fields: SampleFields) -> tuple[str, dict[str, Any]]:
        skipped: list[SkippedSample] = []
        size = self.size_of(number)
        for candidate in self._candidates(SampleRef(0, number)):
            sample = self.index[candidate]
            try:
                return sample.key, fields.read_without_image(
                    self._files(sample),
                    partial(self._image, sample),
                    computed=partial(self._generator, 0, sample.key),
                    size=size,
                )
            except Broken as broken:
                skipped.append(SkippedSample(sample.shard, sample.key, broken.reason, broken.detail))
        raise self._hopeless(skipped)

    def _candidates(self, draw: SampleRef) -> Iterator[int]:
        """The sample itself, then its substitutes."""
        yield draw.number
        rng = random.Random(f"{self.seed}/{draw.epoch}/{draw.number}/substitute")
        for _ in range(SUBSTITUTES):
            yield rng.randrange(len(self))

    def _hopeless(self, skipped: Sequence[SkippedSample]) -> ValueError:
        named = "; ".join(f"{skip.key!r} in {skip.shard}: {skip.why}" for skip in skipped[:3])
        return ValueError(f"{len(skipped)} samples drawn one after the other cannot be used ({named}); mend the shards")

    def _item(self, sample: Sample, draw: SampleRef, size: Size | None) -> Item:
        name = self._name(draw)
        fields = self.fields.read(
            self._files(sample),
            partial(self._image, sample),
            choose=(lambda: random.Random(f"{name}/caption")) if self.varied else None,
            rng=lambda: NO_RNG if self.transform.deterministic else random.Random(name),
            computed=partial(self._generator, draw.epoch, sample.key),
            size=size,
        )
        return Item(sample.key, fields)

    def _name(self, draw: SampleRef) -> str:
        """The seed of a sample's own generator."""
        return f"{self.seed}/{draw.epoch}/{draw.number}"

    def _generator(self, epoch: int, key: str, field: str) -> random.Random:
        """Return the generator of a computed field of a sample."""
        return random.Random(f"{self.seed}/{epoch}/{key}/{field}")

    def _image(self, sample: Sample) -> bytes:
        data = self._read(sample, sample.image)
        assert data is not None
        return data

    def _files(self, sample: Sample) -> Files:
        places = {"txt": sample.text, "json": sample.record, **sample.parts}
        return Files(lambda ending: self._read(sample, places.get(ending, ABSENT)))

    def _files_of(self, sample: Sample) -> dict[str, bytes]:
        """The files of a sample beside its image, by ending, as they are."""
        files = self._files(sample)
        return {ending: data for ending in ("txt", "json", *sample.parts) if (data := files.get(ending)) is not None}

    def _read(self, sample: Sample, extent: ByteRange) -> bytes | None:
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


def sequential(
    samples: ShardDataset, batch_size: int, *, rank: int = 0, world: int = 1, limit: int | None = None
) -> SequentialBatchSampler:
    """Return a sampler that goes through samples in order, each batch of one shape; see `SequentialBatchSampler`."""
    buckets = None if samples.buckets is None else samples.buckets.chosen
    return SequentialBatchSampler(len(samples), batch_size, rank=rank, world=world, limit=limit, buckets=buckets)


def collate(items: Sequence[Item]) -> Batch:
    """Return the batch of some items, whose image is still `(B, H, W, 3)` uint8: small on its way; see `finish`."""
    skipped = [skip for item in items for skip in item.skipped]
    return Batch([item.key for item in items], collate_fields([item.fields for item in items]), skipped)


def finish(batch: Batch, device: torch.device | str = "cpu") -> Batch:
    """Return a batch with images `(B, 3, H, W)` in [-1, 1] in place of levels, made where they are used."""
    if "image" not in batch.fields:
        return batch
    levels = tensor_field(batch.fields, "image").to(device, non_blocking=True)
    return batch._replace(fields={**batch.fields, "image": from_levels(levels.permute(0, 3, 1, 2))})
