"""No condition at all."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor

from ldm.batch import Condition, Fields
from ldm.conditioner.base import SingleConditioner


class Unconditional(SingleConditioner):
    """Says nothing: the backbone gets x_t and t alone, and learns the distribution of all images."""

    inputs = ()
    knows_null = True

    def __init__(self) -> None:
        super().__init__(drop_rate=0.0)

    def prepare(self, samples: Iterable[Fields] | None) -> None:
        """Do nothing: there is nothing to learn."""

    def encode(self, fields: Fields, dropped: Tensor) -> Condition:
        """Return a condition without any part."""
        return Condition()
