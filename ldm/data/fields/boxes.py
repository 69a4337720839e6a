"""The field `boxes`."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ldm.data.decode import Broken
from ldm.data.fields.base import Files, PlacedReader
from ldm.data.fields.placement import Placement
from ldm.options.rule import FRACTION, Whole

CLASS = Whole(0, 2**24)
"""Numbers that classes of boxes can have: those that a float32 holds."""


class BoxesReader(PlacedReader):
    """Reads "boxes" of the .json: a list of {"label": 3, "box": [x0, y0, x1, y1]}.

    The label is the number of a class. The corners are fractions, in [0, 1], of the width and height of the whole image, seen
    upright, so that they hold for a smaller copy of it, too: x from the left, y from the top, x0 < x1 and y0 < y1.
    """

    name = "boxes"
    endings = ("json",)
    advice = 'add boxes to the .json, like {"boxes": [{"label": 3, "box": [0.1, 0.2, 0.5, 0.9]}]}'

    def read(self, files: Files, rng: Callable[[], random.Random] | None) -> Tensor:
        """Return the boxes of one sample, `(N, 5)`. Raises Broken where it has no list of boxes."""
        found = files.record.get("boxes")
        if found is None:
            raise Broken("no boxes")
        rows = [_row(entry) for entry in found] if isinstance(found, list) else [None]
        if any(row is None for row in rows):
            raise Broken("unreadable boxes", f"{found!r}"[:200])
        return torch.tensor(rows, dtype=torch.float32).view(-1, 5)

    def place(self, value: Tensor, placement: Placement) -> Tensor:
        """Return the boxes in the image, `(M, 5)`."""
        return placement.boxes(value)

    def varies(self, files: Files) -> bool:
        """Return False: chance decides nothing."""
        return False


def _row(entry: Any) -> list[float] | None:
    """Class and corners of an entry; None where it is no box."""
    if not isinstance(entry, dict) or not isinstance(entry.get("box"), list) or len(entry["box"]) != 4:
        return None
    if not CLASS.allows(entry.get("label")) or not all(map(FRACTION.allows, entry["box"])):
        return None
    x0, y0, x1, y1 = map(float, entry["box"])
    return [float(entry["label"]), x0, y0, x1, y1] if x0 < x1 and y0 < y1 else None
