"""Masks of boxes."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np

from ldm.batch import Size
from ldm.data.masks.base import MaskArray, MaskGenerator, check_count, scaled
from ldm.options.rule import NOT_NEGATIVE, check, check_range


class Boxes(MaskGenerator):
    """Masks of upright boxes of any aspect ratio, as large as in the thick setting of LaMa.

    Suvorov et al., 2021, section 2.4, arXiv:2109.07161. Lengths are pixels of an image whose shorter side is 256; for other
    images they are scaled.

    Args:
        count: Least and greatest number of boxes.
        side: Least and greatest height and width of a box.
        margin: Pixels at the edges of the image in which no box lies.
        fraction: Least and greatest fraction of masked pixels; masks outside are drawn again.

    Raises:
        ValueError: If an option has a value that it cannot have.
    """

    def __init__(
        self,
        *,
        count: Sequence[int] = (1, 3),
        side: Sequence[float] = (30, 150),
        margin: float = 10,
        fraction: Sequence[float] = (0.01, 0.9),
    ) -> None:
        super().__init__(fraction)
        check_count("count", count)
        check_range("masks.side", side)
        for name, value in (("side", side[0]), ("margin", margin)):
            check(f"masks.{name}", value, NOT_NEGATIVE)
        self.count = (int(count[0]), int(count[1]))
        self.side = side
        self.margin = margin

    def draw(self, size: Size, rng: random.Random) -> MaskArray:
        """Return a mask `(H, W)`, true inside the boxes."""
        mask = np.zeros(size, bool)
        margin = round(scaled(self.margin, size))
        for _ in range(rng.randint(*self.count)):
            height, width = (self._side(length - 2 * margin, size, rng) for length in size)
            top = rng.randint(margin, max(margin, size.height - margin - height))
            left = rng.randint(margin, max(margin, size.width - margin - width))
            mask[top : top + height, left : left + width] = True
        return mask

    def _side(self, room: int, size: Size, rng: random.Random) -> int:
        """Draw the height or width of a box in pixels, at most `room`."""
        least, most = (min(max(1, room), max(1, round(scaled(side, size)))) for side in self.side)
        return rng.randint(least, most)
