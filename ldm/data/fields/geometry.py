"""The field `geometry`."""

from __future__ import annotations

import random
from collections.abc import Callable

from torch import Tensor

from ldm.data.fields.base import Files, PlacedReader
from ldm.data.fields.placement import Placement


class GeometryReader(PlacedReader):
    """Tells how the image was cut, `(6,)` int64; see `Fields`. No file is read for it, and every sample has it."""

    name = "geometry"
    endings = ()
    advice = ""

    def read(self, files: Files, rng: Callable[[], random.Random] | None) -> None:
        """Return nothing, since nothing is read."""

    def place(self, value: None, placement: Placement) -> Tensor:
        """Return the six numbers, `(6,)`."""
        return placement.geometry

    def varies(self, files: Files) -> bool:
        """Return False: chance decides nothing."""
        return False
