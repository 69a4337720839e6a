"""The fields that are arrays of numbers beside the image: `image_embedding` and `neighbors`."""

from __future__ import annotations

import random
from collections.abc import Callable

import torch
from torch import Tensor

from ldm.data.decode import Broken, decode_array
from ldm.data.fields.base import FieldReader, Files


class ArrayReader(FieldReader):
    """The base class of readers of one .npy beside the image: an array of finite floating-point numbers.

    Attributes:
        axes: Numbers of axes that the array of one sample can have.
    """

    axes: tuple[int, ...]

    def read(self, files: Files, rng: Callable[[], random.Random] | None) -> Tensor:
        """Return the array of one sample in float32. Raises Broken where there is none, or it has another shape."""
        data = files.get(self.endings[0])
        if data is None:
            raise Broken(f"no {self.name}")
        try:
            values = decode_array(data)
        except Broken as broken:
            raise Broken(f"unreadable {self.name}", str(broken)) from broken
        if values.ndim not in self.axes:
            raise Broken(f"{self.name} of another shape", f"its shape is {values.shape}")
        return torch.from_numpy(values)

    def varies(self, files: Files) -> bool:
        """Return False: chance decides nothing."""
        return False


class NeighborsReader(ArrayReader):
    """Reads the embeddings of the K nearest neighbours, `(K, D)`, from the .neighbors.npy.

    Blattmann et al., 2022, "Retrieval-Augmented Diffusion Models", arXiv:2204.11824.
    """

    name = "neighbors"
    endings = ("neighbors.npy",)
    advice = "add .neighbors.npy files, of arrays (K, D)"
    axes = (2,)


class ImageEmbeddingReader(ArrayReader):
    """Reads an embedding of the image, `(D,)` or `(L, D)`, from the .embedding.npy."""

    name = "image_embedding"
    endings = ("embedding.npy",)
    advice = "add .embedding.npy files, of arrays (D,) or (L, D)"
    axes = (1, 2)
