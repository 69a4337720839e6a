"""Collected numbers of generated images: features by image number, and numbers of single images."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


class FeatureStore:
    """Features of images by the numbers of the images, on the CPU: 4 D bytes an image.

    Args:
        width: Length D of a feature vector.
    """

    def __init__(self, width: int) -> None:
        self.width = width
        self._numbers: list[Tensor] = []
        self._rows: list[Tensor] = []

    def __len__(self) -> int:
        return sum(map(len, self._numbers))

    def add(self, features: Tensor, numbers: Sequence[int] | Tensor) -> None:
        """Add the features `(B, D)` of images with these numbers, in any order."""
        numbers = torch.as_tensor(numbers, dtype=torch.int64, device="cpu")
        if features.shape != (len(numbers), self.width):
            raise ValueError(
                f"got features {tuple(features.shape)} of {len(numbers)} images, expected ({len(numbers)}, {self.width})"
            )
        self._numbers.append(numbers)
        self._rows.append(features.detach().float().cpu())

    @property
    def numbers(self) -> Tensor:
        """The numbers of the images, `(N,)` int64, in the order in which they were added."""
        return torch.cat([torch.empty(0, dtype=torch.int64), *self._numbers])

    @property
    def rows(self) -> Tensor:
        """The features `(N, D)` float32, in the same order."""
        return torch.cat([torch.empty(0, self.width), *self._rows])

    def ordered(self) -> Tensor:
        """Return the features `(N, D)` float32 in the order of the numbers, whoever added them.

        Raises:
            ValueError: Where a number came twice.
        """
        numbers, order = self.numbers.sort(stable=True)
        if bool((numbers[1:] == numbers[:-1]).any()):
            twice = int(numbers[1:][numbers[1:] == numbers[:-1]][0])
            raise ValueError(f"image {twice} was measured more than once; give each image once")
        return self.rows[order]


class ValueStore:
    """Numbers of single images, whose mean does not depend on the order in which they came."""

    def __init__(self) -> None:
        self._values: list[Tensor] = []

    def add(self, values: Tensor) -> None:
        """Add the numbers of some images, `(B,)`."""
        self._values.append(values.detach().flatten().cpu().double())

    @property
    def values(self) -> Tensor:
        """All numbers, `(N,)` float64."""
        return torch.cat([torch.empty(0, dtype=torch.float64), *self._values])

    def mean(self) -> float:
        """Return the mean, with the sum rounded once, so that any order gives the same; 0 where there is no number."""
        values = self.values.tolist()
        return math.fsum(values) / max(len(values), 1)
