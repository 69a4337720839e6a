"""The images that a model is measured on or compared with: files of a folder, samples of shards, those of a data module."""

from __future__ import annotations

import hashlib
import logging
import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ldm.batch import Size, tensor_field
from ldm.data.base import DataModule
from ldm.data.datamodule import CaptionedImages
from ldm.data.dataset import ShardDataset, finish
from ldm.data.order.batch_sampler import spread
from ldm.data.shards.dataset_index import DatasetIndex, index_shards
from ldm.data.shards.names import copied, name_shards
from ldm.data.transforms import ImageTransform
from ldm.files.picture import to_tensor
from ldm.generation.pictures import find_images, open_picture, read_image, read_size

log = logging.getLogger(__name__)


EDGE = 2**16
"""Bytes at each end of a file by which it is known; of a picture they hold the size and the checksum of its pixels."""


class Readable(NamedTuple):
    """Images, without those that are broken.

    Attributes:
        images: `(N, 3, H, W)` in [-1, 1].
        numbers: The number of each.
    """

    images: Tensor
    numbers: Sequence[int]


class RealImages(ABC):
    """Images in a fixed order."""

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of images."""

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """A name for the images as `read` gives them."""

    @abstractmethod
    def size_of(self, number: int) -> Size:
        """Return height and width of an image."""

    @abstractmethod
    def read(self, numbers: Sequence[int]) -> Readable:
        """Return some images, but for broken ones.

        Args:
            numbers: Places in the order, from 0; of images of one size.
        """

    def content_of(self, numbers: Sequence[int]) -> str:
        """Return a name for some of the images as `read` gives them."""
        chosen = hashlib.sha256(repr(list(numbers)).encode()).hexdigest()[:16]
        return f"{chosen} of {self.fingerprint}"


class SpreadImages(RealImages):
    """Some of other images, evenly spread.

    Args:
        images: The images.
        count: Number of those that are taken.
    """

    def __init__(self, images: RealImages, count: int) -> None:
        self.images = images
        self.numbers = list(spread(len(images), count))

    def __len__(self) -> int:
        return len(self.numbers)

    @property
    def fingerprint(self) -> str:
        """See `RealImages.fingerprint`."""
        return self.images.fingerprint if len(self) == len(self.images) else self.images.content_of(self.numbers)

    def content_of(self, numbers: Sequence[int]) -> str:
        """See `RealImages.content_of`."""
        return self.images.content_of([self.numbers[number] for number in numbers])

    def size_of(self, number: int) -> Size:
        """See `RealImages.size_of`."""
        return self.images.size_of(self.numbers[number])

    def read(self, numbers: Sequence[int]) -> Readable:
        """See `RealImages.read`."""
        places = {self.numbers[number]: number for number in numbers}
        found = self.images.read(list(places))
        return Readable(found.images, [places[number] for number in found.numbers])


class FolderImages(RealImages):
    """An image file, or the images of a folder, by name.

    Args:
        path: The file or folder.
        size: The size to which they are resized and cut at the centre; None: each stays as it is.

    Raises:
        FileNotFoundError: Where there is no image.
    """

    def __init__(self, path: str, size: Size | None) -> None:
        self.files = find_images(path)
        self.size = size

    def __len__(self) -> int:
        return len(self.files)

    @property
    def fingerprint(self) -> str:
        """See `RealImages.fingerprint`; it does not depend on where the files are, nor on when they were written."""
        return f"folder {self.content_of(range(len(self)))}"

    def content_of(self, numbers: Sequence[int]) -> str:
        """See `RealImages.content_of`."""
        known = [(Path(self.files[number]).name, *self._known_by[number]) for number in numbers]
        size = "as they are" if self.size is None else tuple(self.size)
        return f"{hashlib.sha256(repr(known).encode()).hexdigest()[:16]} {size}"

    def size_of(self, number: int) -> Size:
        """See `RealImages.size_of`; [0,0] of what is no image."""
        return self._sizes[number] if self.size is None else self.size

    def read(self, numbers: Sequence[int]) -> Readable:
        """See `RealImages.read`."""
        images, found = [torch.empty(0, 3, *self.size_of(numbers[0]))], []
        for number in numbers:
            try:
                file = self.files[number]
                image = to_tensor(open_picture(file)) if self.size is None else read_image(file, self.size)
            except ValueError as error:
                log.warning("left out: %s", error)
                continue
            images.append(image[None])
            found.append(number)
        return Readable(torch.cat(images), found)

    @cached_property
    def _sizes(self) -> list[Size]:
        return [_size_in(file) for file in self.files]

    @cached_property
    def _known_by(self) -> list[tuple[int, str]]:
        return [_known_by(file) for file in self.files]


class ShardImages(RealImages):
    """The images of tar shards.

    Args:
        names: A brace pattern, a glob, a path, a URL, or a list of them.
        size: The size to which they are resized and cut at the centre.
        cache: Folder for copies of remote shards, and for indexes that cannot lie beside their shards.

    Raises:
        ValueError: Where there are latents instead of images.
        FileNotFoundError: Where there is no shard.
    """

    def __init__(self, names: str | Sequence[str], size: Size, cache: Path) -> None:
        index = DatasetIndex(index_shards(copied(name_shards(names), cache / "shards"), cache / "index", alone=True))
        if index.encoding:
            raise ValueError("what is measured are images, but data.val are latents; give shards of images")
        self.size = size
        self.samples = ShardDataset(index, ImageTransform(size), [], seed=0)

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def fingerprint(self) -> str:
        """See `RealImages.fingerprint`."""
        return f"{self.samples.index.fingerprint}-{self.samples.transform!r}"

    def size_of(self, number: int) -> Size:
        """See `RealImages.size_of`."""
        return self.size

    def read(self, numbers: Sequence[int]) -> Readable:
        """See `RealImages.read`."""
        batch, _ = self.samples.exactly(numbers)
        if not batch.key:
            return Readable(torch.empty(0, 3, *self.size), [])
        broken = {(sample.shard, sample.key) for sample in batch.skipped}
        names = {number: (sample.shard, sample.key) for number in numbers for sample in [self.samples.index[number]]}
        found = [number for number in numbers if names[number] not in broken]
        return Readable(tensor_field(finish(batch).fields, "image"), found)


class DatasetImages(RealImages):
    """The images of a data module, as validation sees them; in place of a broken one stands another.

    Args:
        samples: The samples.
        fingerprint: A name for their images.
        size: Height and width of images that have no bucket.
    """

    def __init__(self, samples: ShardDataset, fingerprint: str, size: Size) -> None:
        self.samples = samples
        self.size = size
        self._fingerprint = fingerprint

    @classmethod
    def of_validation(cls, data: DataModule) -> DatasetImages:
        """Return the validation images of a data module."""
        samples = data.open_validation()
        return cls(samples, data.fingerprint_of(samples), data.size)

    @classmethod
    def of_training(cls, data: DataModule) -> DatasetImages:
        """Return the training images of a data module, cut at the centre and not flipped.

        Raises:
            ValueError: If it has no index of them, or they are latents.
        """
        if not isinstance(data, CaptionedImages):
            raise ValueError("reference=train needs shards with an index: data=shards, not data=stream")
        index = data.train_set.index
        if index.encoding:
            raise ValueError(
                "reference=train needs images, but data.train are latents; give reference=SHARDS of images"
            )
        samples = ShardDataset(index, ImageTransform(data.size), [], seed=0, buckets=data.train_set.buckets)
        return cls(samples, data.fingerprint_of(samples), data.size)

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def fingerprint(self) -> str:
        """See `RealImages.fingerprint`."""
        return self._fingerprint

    def size_of(self, number: int) -> Size:
        """See `RealImages.size_of`."""
        return self.samples.size_of(number) or self.size

    def read(self, numbers: Sequence[int]) -> Readable:
        """See `RealImages.read`."""
        return Readable(tensor_field(self.samples.whole_fields(numbers, image=True), "image"), numbers)


def _size_in(file: str) -> Size:
    try:
        return read_size(file)
    except ValueError:
        return Size(0, 0)


def _known_by(file: str) -> tuple[int, str]:
    """Return the length of a file, and a digest of its ends."""
    try:
        with open(file, "rb") as content:
            length = os.fstat(content.fileno()).st_size
            digest = hashlib.sha256(content.read(EDGE))
            content.seek(max(length - EDGE, EDGE))
            digest.update(content.read(EDGE))
    except OSError:
        return 0, "unreadable"
    return length, digest.hexdigest()
