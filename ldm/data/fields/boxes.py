"""The field `boxes`."""

from __future__ import annotations

import random
from collections.abc import Callable

import torch
from torch import Tensor

from ldm.data.decode import Broken
from ldm.data.fields.base import Files, PlacedReader
from ldm.data.fields.placement import Placement
from ldm.data.values import boxes_of


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
        return torch.tensor(boxes_of(found), dtype=torch.float32).view(-1, 5)

    def place(self, value: Tensor, placement: Placement) -> Tensor:
        """Return the boxes in the image, `(M, 5)`."""
        return placement.boxes(value)

    def varies(self, files: Files) -> bool:
        """Return False: chance decides nothing."""
        return False
