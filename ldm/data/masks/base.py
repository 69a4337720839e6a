"""The base class of mask generators."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TypeAlias, final

import numpy as np
from numpy.typing import NDArray

from ldm.batch import Size
from ldm.options.rule import FRACTION, Whole, check, check_range

MaskArray: TypeAlias = NDArray[np.bool_]

ATTEMPTS = 1000
"""The number of attempts to draw a mask of the wanted fraction, before an error."""

REFERENCE = 256
"""Side of an image, in pixels, to which the lengths in the papers' settings belong; all scale with the shorter side."""


class MaskGenerator(ABC):
    """A generator of masks that draws again until the fraction of pixels to be made lies between two limits.

    Args:
        fraction: Least and greatest fraction of masked pixels.

    Raises:
        ValueError: If these are not two numbers in [0, 1] in ascending order.
    """

    def __init__(self, fraction: Sequence[float]) -> None:
        check_range("masks.fraction", fraction)
        for value in fraction:
            check("masks.fraction", value, FRACTION)
        self.fraction = (float(fraction[0]), float(fraction[1]))

    @abstractmethod
    def draw(self, size: Size, rng: random.Random) -> MaskArray:
        """Return a mask `(H, W)`, true where something is to be made; any fraction of it may be true.

        Args:
            size: Its size.
            rng: Draws everything that is random.
        """

    @final
    def __call__(self, size: Size, rng: random.Random) -> MaskArray:
        """Return a mask `(H, W)`, true where something is to be made.

        Args:
            size: Its size.
            rng: Draws everything that is random.

        Raises:
            ValueError: If the limits of the fraction are so narrow that no mask is within them.
        """
        low, high = self.fraction
        for _ in range(ATTEMPTS):
            mask = self.draw(size, rng)
            if low <= mask.mean() <= high:
                return mask
        raise ValueError(
            f"none of {ATTEMPTS} masks of {size.height} x {size.width} pixels has a fraction from {low:g} to {high:g} "
            "masked; give wider limits, masks.fraction=[0.01,0.9]"
        )


def check_count(name: str, ends: Sequence[int]) -> None:
    """Raise ValueError unless an option is a range of counts, the least at least 1."""
    check_range(f"masks.{name}", ends)
    for value in ends:
        check(f"masks.{name}", value, Whole(1))


def scaled(length: float, size: Size) -> float:
    """Return a length that is given for images of 256 x 256 pixels in pixels of a size, by its shorter side."""
    return length * min(size) / REFERENCE
