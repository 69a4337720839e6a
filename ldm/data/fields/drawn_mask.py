"""The field `mask` of samples that may have no mask of their own."""

from __future__ import annotations

import random
from collections.abc import Callable

import torch
from PIL import Image
from torch import Tensor

from ldm.data.fields.base import ComputedReader, Files
from ldm.data.fields.cut import Cut
from ldm.data.fields.maps import MaskReader
from ldm.data.masks.base import MaskGenerator


class DrawnMaskReader(ComputedReader):
    """Reads the mask of a sample, `(1, H, W)`, from its .mask.png, and draws one where there is none.

    Args:
        generator: Draws masks.
    """

    name = "mask"
    endings = MaskReader.endings
    advice = ""
    needs_image = False

    def __init__(self, generator: MaskGenerator) -> None:
        self.generator = generator
        self.reader = MaskReader()

    def read(self, files: Files, rng: Callable[[], random.Random] | None) -> Image.Image | None:
        """Return the picture of the mask, not decoded yet; None where there is none. Raises Broken where it is damaged."""
        return None if self.varies(files) else self.reader.read(files, rng)

    def compute(self, value: Image.Image | None, cut: Cut, rng: Callable[[], random.Random]) -> Tensor:
        """Return the mask of one sample, `(1, H, W)`: 1 where something is to be made. Raises Broken."""
        if value is not None:
            return self.reader.place(value, cut.placement)
        return torch.from_numpy(self.generator(cut.placement.size, rng()))[None].float()

    def varies(self, files: Files) -> bool:
        """Return whether the sample has no mask of its own."""
        return files.get(self.endings[0]) is None
