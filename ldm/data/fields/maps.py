"""The fields that are pictures beside the image: `segmentation`, `depth`, `mask` and `loss_weight`.

Such a picture shows the same scene as the image, and may be larger or smaller; it must not be cut otherwise.
"""

from __future__ import annotations

import random
from abc import abstractmethod
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ldm.data.decode import PILLOW_ERRORS, Broken, open_image
from ldm.data.fields.base import Files, PlacedReader
from ldm.data.fields.placement import Placement
from ldm.data.values import whole_numbers


class MapReader(PlacedReader):
    """The base class of readers of one picture beside the image.

    Attributes:
        resample: The filter by which the picture is resized.
    """

    resample: Image.Resampling

    @abstractmethod
    def values(self, picture: Image.Image) -> np.ndarray:
        """Return the values of a picture, `(H, W)` int32 or float32. Raises Broken where it has not one channel."""

    @abstractmethod
    def finish(self, values: Tensor) -> Tensor:
        """Return the field of one sample from placed values `(H, W)`."""

    def read(self, files: Files, rng: Callable[[], random.Random] | None) -> Image.Image:
        """Return the picture of one sample, not decoded yet. Raises Broken where there is none."""
        data = files.get(self.endings[0])
        if data is None:
            raise Broken(f"no {self.name}")
        try:
            return open_image(data)
        except Broken as broken:
            raise Broken(f"unreadable {self.name}", str(broken)) from broken

    def place(self, value: Image.Image, placement: Placement) -> Tensor:
        """Return the field of one sample, moved as the image was. Raises Broken where it does not fit."""
        if not placement.fits(*value.size):
            raise Broken(
                f"{self.name} of another shape than the image",
                f"{value.width} x {value.height} beside {placement.original.width} x {placement.original.height}",
            )
        try:
            placed = placement.picture(Image.fromarray(self.values(value)), self.resample)
        except Broken:
            raise
        except PILLOW_ERRORS as error:
            raise Broken(f"unreadable {self.name}", str(error)[:200]) from error
        return self.finish(torch.from_numpy(np.array(placed)))

    def varies(self, files: Files) -> bool:
        """Return False: chance decides nothing."""
        return False


class SegmentationReader(MapReader):
    """Reads the number of a class for each pixel from the .seg.png: gray of 8 or 16 bits, or indices of a palette."""

    name = "segmentation"
    endings = ("seg.png",)
    advice = "add .seg.png files"
    resample = Image.Resampling.NEAREST

    def values(self, picture: Image.Image) -> np.ndarray:
        """Return the values of a picture, `(H, W)`."""
        return whole_numbers(picture, self.name).astype(np.int32)

    def finish(self, values: Tensor) -> Tensor:
        """Return the field of one sample from placed values `(H, W)`."""
        return values.long()


class DepthReader(MapReader):
    """Reads a depth map from the .depth.png: gray of 8 or 16 bits; black becomes -1 and white 1."""

    name = "depth"
    endings = ("depth.png",)
    advice = "add .depth.png files"
    resample = Image.Resampling.BILINEAR

    def values(self, picture: Image.Image) -> np.ndarray:
        """Return the values of a picture, `(H, W)`."""
        return whole_numbers(picture, self.name).astype(np.float32) * np.float32(2 / _white(picture)) - 1

    def finish(self, values: Tensor) -> Tensor:
        """Return the field of one sample from placed values `(H, W)`."""
        return values[None].clamp(-1, 1)


class MaskReader(MapReader):
    """Reads a mask from the .mask.png: where it is white (128 and more of 255), something is to be made."""

    name = "mask"
    endings = ("mask.png",)
    advice = "add .mask.png files, or have masks drawn: masks=mixed"
    resample = Image.Resampling.NEAREST

    def values(self, picture: Image.Image) -> np.ndarray:
        """Return the values of a picture, `(H, W)`."""
        if picture.mode.startswith("I"):  # 16 bits
            return np.asarray(picture).astype(np.int32) >> 8
        return np.asarray(picture.convert("L")).astype(np.int32)

    def finish(self, values: Tensor) -> Tensor:
        """Return the field of one sample from placed values `(H, W)`."""
        return (values >= 128).float()[None]


class LossWeightReader(MapReader):
    """Reads how much each pixel counts in the loss from the .weight.png: gray of 8 or 16 bits, black is 0 and white is 1."""

    name = "loss_weight"
    endings = ("weight.png",)
    advice = "add .weight.png files"
    resample = Image.Resampling.BILINEAR

    def values(self, picture: Image.Image) -> np.ndarray:
        """Return the values of a picture, `(H, W)`."""
        return whole_numbers(picture, self.name).astype(np.float32) * np.float32(1 / _white(picture))

    def finish(self, values: Tensor) -> Tensor:
        """Return the field of one sample from placed values `(H, W)`."""
        return values[None].clamp(0, 1)


def _white(picture: Image.Image) -> int:
    """Return the value of a white pixel of a picture of one channel."""
    return 1 if picture.mode == "1" else 65535 if picture.mode.startswith("I") else 255
