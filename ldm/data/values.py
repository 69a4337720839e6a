"""Values of labels, boxes and maps as files hold them, read without torch, so that packing knows what training can read."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

from ldm.data.decode import Broken
from ldm.options.rule import FRACTION, Whole

CLASS = Whole(0, 2**24)
"""Numbers that classes of boxes can have: those that a float32 holds."""

LARGEST_LABEL = 2**63 - 1

SHOWN = 100
"""Letters of what cannot be read that are shown, at most."""


def label_of(value: Any) -> int:
    """Return the number of a class, from a whole number or its digits. Raises Broken where it is none."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 19:
        return int(value)
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= LARGEST_LABEL:
        return value
    raise _unreadable("label", value, "a label is the number of a class, 0, 1, ...")


def boxes_of(value: Any) -> list[list[float]]:
    """Return class and corners of each box of a list of {"label": 3, "box": [x0, y0, x1, y1]}.

    Raises:
        Broken: Where it is no such list, or corners are no fractions in [0, 1] with x0 < x1 and y0 < y1.
    """
    if not isinstance(value, list):
        raise _unreadable("boxes", value, "boxes are a list")
    return [_box(entry) for entry in value]


def whole_numbers(picture: Image.Image, name: str) -> np.ndarray:
    """Return the values of a picture of one channel as they are stored, `(H, W)`; of a palette, the indices.

    Args:
        picture: The picture.
        name: Name of its field.

    Raises:
        Broken: Where it has several channels, or no whole numbers.
    """
    values = np.asarray(picture)
    if values.ndim != 2 or picture.mode == "F":
        raise Broken(f"unreadable {name}", f"its pixels are {picture.mode}, not of one channel of whole numbers")
    return values


def _box(entry: Any) -> list[float]:
    if not isinstance(entry, dict) or not isinstance(entry.get("box"), list) or len(entry["box"]) != 4:
        raise _unreadable("boxes", entry, 'a box is {"label": 3, "box": [x0, y0, x1, y1]}')
    if not CLASS.allows(entry.get("label")):
        raise _unreadable("boxes", entry, "a label is the number of a class, 0, 1, ...")
    if not all(map(FRACTION.allows, entry["box"])):
        raise _unreadable("boxes", entry, "corners are fractions of width and height, 0 to 1, and no pixels")
    x0, y0, x1, y1 = map(float, entry["box"])
    if not (x0 < x1 and y0 < y1):
        raise _unreadable("boxes", entry, "corners are x0, y0, x1, y1 with x0 < x1 and y0 < y1, no width and height")
    return [float(entry["label"]), x0, y0, x1, y1]


def _unreadable(name: str, found: Any, wanted: str) -> Broken:
    return Broken(f"unreadable {name}", f"{wanted}; got {f'{found!r}'[:SHOWN]}")
