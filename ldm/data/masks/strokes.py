"""Masks of wide strokes."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from ldm.batch import Size
from ldm.data.masks.base import MaskArray, MaskGenerator, check_count, scaled
from ldm.options.rule import POSITIVE, check, check_range


class Strokes(MaskGenerator):
    """Masks of polygonal chains drawn with a wide round brush, as wide and long as in the thick setting of LaMa.

    Suvorov et al., 2021, section 2.4, arXiv:2109.07161. A chain is connected: each of its parts begins where the one before
    ends, and turns by any angle. Lengths are pixels of an image whose shorter side is 256; for other images they are scaled.

    Args:
        count: Least and greatest number of chains.
        parts: Least and greatest number of straight parts of a chain.
        length: Least and greatest length of a part; a part ends at the edge of the image.
        width: Least and greatest width of the brush, which each part has anew.
        fraction: Least and greatest fraction of masked pixels; masks outside are drawn again.

    Raises:
        ValueError: If an option has a value that it cannot have.
    """

    def __init__(
        self,
        *,
        count: Sequence[int] = (1, 5),
        parts: Sequence[int] = (1, 5),
        length: Sequence[float] = (10, 210),
        width: Sequence[float] = (5, 105),
        fraction: Sequence[float] = (0.01, 0.9),
    ) -> None:
        super().__init__(fraction)
        for name, counts in (("count", count), ("parts", parts)):
            check_count(name, counts)
        for name, lengths in (("length", length), ("width", width)):
            check_range(f"masks.{name}", lengths)
            check(f"masks.{name}", lengths[0], POSITIVE)
        self.count = (int(count[0]), int(count[1]))
        self.parts = (int(parts[0]), int(parts[1]))
        self.length = (length[0], length[1])
        self.width = (width[0], width[1])

    def draw(self, size: Size, rng: random.Random) -> MaskArray:
        """Return a mask `(H, W)`, true under the brush."""
        picture = Image.new("L", (size.width, size.height))
        brush = ImageDraw.Draw(picture)
        for _ in range(rng.randint(*self.count)):
            x, y = rng.uniform(0, size.width - 1), rng.uniform(0, size.height - 1)
            for _ in range(rng.randint(*self.parts)):
                angle = rng.uniform(0.0, 2 * math.pi)
                length, radius = (
                    scaled(rng.uniform(*self.length), size),
                    scaled(rng.uniform(*self.width), size) / 2,
                )
                end_x = min(max(x + length * math.cos(angle), 0), size.width - 1)
                end_y = min(max(y + length * math.sin(angle), 0), size.height - 1)
                brush.line((x, y, end_x, end_y), fill=255, width=max(1, round(2 * radius)))
                for centre in ((x, y), (end_x, end_y)):
                    brush.ellipse(_around(*centre, max(0.5, radius)), fill=255)
                x, y = end_x, end_y
        return np.asarray(picture) > 0


def _around(x: float, y: float, radius: float) -> tuple[float, float, float, float]:
    """Return the box around a circle."""
    return x - radius, y - radius, x + radius, y + radius
