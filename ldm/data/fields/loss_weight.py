"""The field `loss_weight`."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ldm.data.fields.base import Files, PlacedReader
from ldm.data.fields.maps import MapReader
from ldm.data.fields.placement import Placement


class WeightMapReader(MapReader):
    """Reads weights from the .weight.png: gray of 8 or 16 bits, of which black becomes 0 and white 1."""

    name = "loss_weight"
    endings = ("weight.png",)
    advice = "add .weight.png files"
    resample = Image.Resampling.BILINEAR

    def values(self, picture: Image.Image) -> np.ndarray:
        """Return the values of a picture, `(H, W)`, in [0, 1]."""
        white = 1 if picture.mode == "1" else 65535 if picture.mode.startswith("I") else 255
        return self._whole_numbers(picture).astype(np.float32) / np.float32(white)

    def finish(self, values: Tensor) -> Tensor:
        """Return the field of one sample from placed values `(H, W)`."""
        return values[None].clamp(0.0, 1.0)


class LossWeightReader(PlacedReader):
    """Reads how much each pixel counts in the loss, `(1, H, W)` in [0, 1], from the .weight.png.

    In a sample without this file every pixel counts fully, so that a data set may have such files for some images only.
    """

    name = WeightMapReader.name
    endings = WeightMapReader.endings
    advice = WeightMapReader.advice

    def __init__(self) -> None:
        self.map = WeightMapReader()

    def read(self, files: Files, rng: Callable[[], random.Random] | None) -> Image.Image | None:
        """Return the picture of one sample, not decoded yet; None where there is none. Raises Broken where it is damaged."""
        return None if files.get(self.endings[0]) is None else self.map.read(files, rng)

    def place(self, value: Image.Image | None, placement: Placement) -> Tensor:
        """Return the weights of one sample, `(1, H, W)`, moved as the image was. Raises Broken where they do not fit."""
        return torch.ones(1, *placement.size) if value is None else self.map.place(value, placement)

    def varies(self, files: Files) -> bool:
        """Return False: chance decides nothing."""
        return False
