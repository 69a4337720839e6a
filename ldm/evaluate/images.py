"""The images that a model is measured on: files of a folder, or samples of shards."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from ldm.batch import Size, tensor_field
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

    @abstractmethod
    def read(self, numbers: Sequence[int]) -> Tensor:
        """Return some images.

        Args:
            numbers: Places in the order, from 0.

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

    def read(self, numbers: Sequence[int]) -> Tensor:
        """See `RealImages.read`."""
        batch, _ = self.samples.exactly(numbers)
        if not batch.key:
            return torch.empty(0, 3, *self.size)
        return tensor_field(finish(batch).fields, "image")
