"""The field `low_resolution`."""

from __future__ import annotations

import random
from collections.abc import Callable

import torch
from torch import Tensor

from ldm.data.degradations.base import Degradation
from ldm.data.fields.base import ComputedReader, Files
from ldm.data.fields.cut import Cut
from ldm.files.picture import from_levels


class LowResolutionReader(ComputedReader):
    """Computes the low-resolution image, `(3, H / s, W / s)` in [-1, 1], of a sample by a degradation of factor s.

    Args:
        degradation: Makes it of the finished image.
    """

    name = "low_resolution"
    endings = ()
    advice = ""
    needs_image = True

    def __init__(self, degradation: Degradation) -> None:
        self.degradation = degradation

    def read(self, files: Files, rng: Callable[[], random.Random] | None) -> None:
        """Return nothing, since nothing is read."""

    def compute(self, value: None, cut: Cut, rng: Callable[[], random.Random]) -> Tensor:
        """Return the field of one sample, `(3, H / s, W / s)` in [-1, 1]."""
        levels = self.degradation(cut.levels, rng())
        return from_levels(torch.from_numpy(levels.copy()).permute(2, 0, 1))

    def varies(self, files: Files) -> bool:
        """Return whether the degradation draws anything."""
        return not self.degradation.deterministic
