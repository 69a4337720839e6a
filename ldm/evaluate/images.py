"""The images that a model is measured on or compared with: files of a folder, samples of shards, those of a data module."""

from __future__ import annotations

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path

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
from ldm.generation.pictures import find_images, read_image


class RealImages(ABC):
    """Images of one size, in a fixed order."""

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
    def read(self, numbers: Sequence[int]) -> Tensor:
        """Return some images.

        Args:
            numbers: Places in the order, from 0; of images of one size.

        Returns:
            The images `(N, 3, H, W)` in [-1, 1], fewer where some are broken.
        """

    def batches(self, batch_size: int, most: int | None = None) -> Iterator[Tensor]:
        """Yield all images, or `most` of them, evenly spread, `(B, 3, H, W)` in [-1, 1]."""
        numbers = list(spread(len(self), most or len(self)))
        for first in range(0, len(numbers), batch_size):
            yield self.read(numbers[first : first + batch_size])


class FolderImages(RealImages):
    """An image file, or the images of a folder, by name.

    Args:
        path: The file or folder.
        size: The size to which they are resized and cut at the centre.

    Raises:
        FileNotFoundError: Where there is no image.
    """

    def __init__(self, path: str, size: Size) -> None:
        self.files = find_images(path)
        self.size = size

    def __len__(self) -> int:
        return len(self.files)

    @property
    def fingerprint(self) -> str:
        """See `RealImages.fingerprint`: files are known by name, size and time."""
        stats = [(Path(file).name, os.stat(file)) for file in self.files]
        told = [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]
        return f"folder {hashlib.sha256(repr(told).encode()).hexdigest()[:16]} {tuple(self.size)}"

    def size_of(self, number: int) -> Size:
        """See `RealImages.size_of`."""
        return self.size

    def read(self, numbers: Sequence[int]) -> Tensor:
        """See `RealImages.read`; raises ValueError where a file cannot be read."""
        return torch.stack([read_image(self.files[number], self.size) for number in numbers])


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

    def read(self, numbers: Sequence[int]) -> Tensor:
        """See `RealImages.read`."""
        batch, _ = self.samples.exactly(numbers)
        if not batch.key:
            return torch.empty(0, 3, *self.size)
        return tensor_field(finish(batch).fields, "image")


class DatasetImages(RealImages):
    """The images of a data module, as validation sees them; in the place of a broken one stands another.

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

    def read(self, numbers: Sequence[int]) -> Tensor:
        """See `RealImages.read`."""
        return tensor_field(self.samples.whole_fields(numbers, image=True), "image")
