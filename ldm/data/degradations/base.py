"""The base class of degradations."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from ldm.batch import Size
from ldm.options.rule import Whole, check

Levels: TypeAlias = NDArray[np.uint8]


class Degradation(ABC):
    """A degradation that makes an image smaller by a whole factor, and perhaps worse.

    Args:
        factor: Height and width of an image divided by those of the result, at least 2.

    Raises:
        ValueError: If `factor` is no whole number, or below 2.
    """

    def __init__(self, factor: int) -> None:
        check("degradation.factor", factor, Whole(2))
        self.factor = factor

    @property
    @abstractmethod
    def deterministic(self) -> bool:
        """True if an image always gives the same result, whatever the generator."""

    @abstractmethod
    def __call__(self, image: Levels, rng: random.Random) -> Levels:
        """Return the low-resolution image.

        Args:
            image: 8-bit levels, `(H, W, 3)`; height and width are multiples of `factor`.
            rng: Draws everything that is random.

        Returns:
            8-bit levels, `(H / factor, W / factor, 3)`.
        """

    def check_size(self, size: Size) -> None:
        """Raise ValueError if images of a size cannot be divided by the factor."""
        if size.height % self.factor or size.width % self.factor:
            raise ValueError(
                f"images of {size.height} x {size.width} pixels cannot be made smaller by degradation.factor="
                f"{self.factor}; set data.size to multiples of it, or another factor"
            )

    def result_size(self, image: Levels) -> Size:
        """Return the size of the result for an image `(H, W, 3)`. Raises ValueError if it cannot be divided."""
        size = Size(*image.shape[:2])
        self.check_size(size)
        return Size(size.height // self.factor, size.width // self.factor)
