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

    def read(self, files: Files, chance: Callable[[], random.Random] | None) -> None:
        return None

    def place(self, value: None, placement: Placement) -> Tensor:
        return placement.geometry

    def varies(self, files: Files) -> bool:
        return False
