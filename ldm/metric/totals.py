"""Sums over a whole validation."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric


class Totals(Metric):
    """Sums of a vector over all batches and processes.

    Args:
        size: Length of the vector.
    """

    total: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.add_state("total", torch.zeros(size, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, values: Tensor) -> None:
        """Add values, `(size,)`."""
        self.total += values

    def compute(self) -> Tensor:
        """Return the sums, `(size,)` float64."""
        return self.total
