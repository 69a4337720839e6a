"""The base class of metrics that are means over single images."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torchmetrics import SumMetric

from ldm.batch import Fields
from ldm.metric.base import ADVICE, GenerationMetric, check_finite


class PerImageMetric(GenerationMetric):
    """The base class of metrics that give a number of each image, of which the mean counts; they need no set of real images.

    Args:
        names: Names of the numbers.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._sums = {name: (SumMetric(), SumMetric()) for name in names}

    @abstractmethod
    def measure(self, images: Tensor, fields: Fields) -> Mapping[str, Tensor]:
        """Return the numbers of single images.

        Args:
            images: Generated images, `(B, 3, H, W)` in [-1, 1], finite.
            fields: The fields that they were made for.

        Returns:
            Name -> numbers, `(N,)` with N <= B: images for which a number means nothing have none.

        Raises:
            ValueError: Where the fields cannot be measured by.
        """

    @property
    def names(self) -> Sequence[str]:
        """Return the names of the numbers."""
        return list(self._sums)

    @property
    def reference_name(self) -> None:
        """Return None: nothing is needed of real images."""
        return None

    def to(self, device: torch.device) -> None:
        """Move the sums to a device."""
        for total, count in self._sums.values():
            total.to(device)
            count.to(device)

    def update_reference(self, images: Tensor) -> None:
        """Do nothing with real images."""

    def reference(self) -> dict[str, Tensor]:
        """Return no sums, since there are none."""
        return {}

    def set_reference(self, sums: dict[str, Tensor]) -> None:
        """Do nothing: there are no sums."""

    @torch.no_grad()
    def update(self, images: Tensor, fields: Fields) -> None:
        """Add generated images `(B, 3, H, W)` in [-1, 1] and the fields that they were made for."""
        check_finite(images, "generated images", advice=ADVICE)
        for name, values in self.measure(images, fields).items():
            total, count = self._sums[name]
            total.update(values.float().sum())
            count.update(torch.ones_like(values, dtype=torch.float32).sum())

    def compute(self) -> dict[str, float]:
        """Return the means over all images since the last call; 0 where no image had such a number."""
        found = {
            name: float(total.compute()) / max(float(count.compute()), 1.0)
            for name, (total, count) in self._sums.items()
        }
        for total, count in self._sums.values():
            total.reset()
            count.reset()
        return found
