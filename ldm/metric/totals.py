"""Sums over a whole validation."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from ldm.pretrained.precision import has_float64


class Totals(Metric):
    """Sums of a vector over all batches and processes.

    Args:
        size: Length of the vector.
    """

    total: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.add_state("total", torch.zeros(size, dtype=torch.float64), dist_reduce_fx="sum")

    def _apply(self, fn: Callable[[Tensor], Tensor], exclude_state: Sequence[str] = "") -> nn.Module:
        """Move the sums, but not to a device that has no float64."""
        return super()._apply(fn, exclude_state) if has_float64(fn(torch.empty(0)).device) else self

    def update(self, values: Tensor) -> None:
        """Add values, `(size,)`."""
        self.total += values.to(self.total.device)

    def compute(self) -> Tensor:
        """Return the sums, `(size,)` float64."""
        return self.total
