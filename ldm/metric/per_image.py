"""The base class of metrics that are means over single images."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence

from torch import Tensor

from ldm.batch import Fields
from ldm.metric.base import Metric


class PerImageMetric(Metric):
    """The base class of metrics that are the mean of a number for each image; they need no set of real images.

    Args:
        names: Names of the numbers.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._names = list(names)

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
        return self._names
