"""Bicubic downsampling, the usual degradation of super-resolution benchmarks."""

from __future__ import annotations

import random

import numpy as np
from PIL import Image

from ldm.data.degradations.base import Degradation, Levels


class Bicubic(Degradation):
    """Antialiased bicubic downsampling: the kernel is as many times wider as the image becomes smaller.

    It is the degradation of SR3 (Saharia et al., 2021, arXiv:2104.07636) and of the super-resolution models on ImageNet of
    Rombach et al., 2022, section 4.4, arXiv:2112.10752.

    Args:
        factor: Height and width of an image divided by those of the result, at least 2.
    """

    def __init__(self, factor: int = 4) -> None:
        super().__init__(factor)

    @property
    def deterministic(self) -> bool:
        """True: nothing is drawn."""
        return True

    def __call__(self, image: Levels, rng: random.Random) -> Levels:
        """Return the image `(H, W, 3)` made smaller, `(H / factor, W / factor, 3)`."""
        height, width = self.result_size(image)
        return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC))
