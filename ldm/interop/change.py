"""Changes between numbers of our tensors and a tensor of another layout."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor


class Change(ABC):
    """The base class of changes between our tensors and one tensor of another layout; both ways give the same numbers."""

    @abstractmethod
    def to_ours(self, theirs: Tensor) -> Sequence[Tensor]:
        """Return our tensors, one or more, of their tensor; views where that is possible."""

    @abstractmethod
    def to_theirs(self, ours: Sequence[Tensor]) -> Tensor:
        """Return their tensor of ours."""


class Same(Change):
    """Their tensor is ours."""

    def to_ours(self, theirs: Tensor) -> Sequence[Tensor]:
        """Return the tensor as it is; see `Change.to_ours`."""
        return [theirs]

    def to_theirs(self, ours: Sequence[Tensor]) -> Tensor:
        """Return the tensor as it is; see `Change.to_theirs`."""
        (only,) = ours
        return only


class Pointwise(Change):
    """Their layer is a convolution with a kernel of one place, where ours is a linear layer. Biases are the same.

    Args:
        axes: Number of axes of their kernel, each of length 1: 1 for sequences, 2 for maps.
    """

    def __init__(self, axes: int) -> None:
        self.axes = axes

    def to_ours(self, theirs: Tensor) -> Sequence[Tensor]:
        """Take the axes of the kernel away; see `Change.to_ours`. What has no such axes, like a bias, stays as it is."""
        has_kernel = theirs.ndim == 2 + self.axes and theirs.shape[2:].numel() == 1
        return [theirs.flatten(1) if has_kernel else theirs]

    def to_theirs(self, ours: Sequence[Tensor]) -> Tensor:
        """Add the axes of the kernel; see `Change.to_theirs`."""
        (only,) = ours
        return only.view(*only.shape, *[1] * self.axes) if only.ndim == 2 else only


class Fused(Change):
    """Their layer gives queries, keys and values at once, which are three layers here.

    Args:
        heads: Their output has queries, keys and values of the first head, then those of the second, and so on. With 1 it has all
            queries, then all keys, then all values.
        axes: Number of axes of length 1 of their kernel; see `Pointwise`.
    """

    def __init__(self, *, heads: int = 1, axes: int = 0) -> None:
        self.heads = heads
        self.pointwise = Pointwise(axes)

    def to_ours(self, theirs: Tensor) -> Sequence[Tensor]:
        """Return weights or biases of queries, keys and values; see `Change.to_ours`.

        Raises:
            ValueError: If their rows cannot be divided by three times the heads.
        """
        (matrix,) = self.pointwise.to_ours(theirs)
        if matrix.shape[0] % (3 * self.heads):
            raise ValueError(f"{matrix.shape[0]} rows are not queries, keys and values of {self.heads} heads")
        parts = matrix.unflatten(0, (self.heads, 3, -1)).unbind(1)
        return [part.flatten(0, 1) for part in parts]

    def to_theirs(self, ours: Sequence[Tensor]) -> Tensor:
        """Stack queries, keys and values; see `Change.to_theirs`."""
        stacked = torch.stack([part.unflatten(0, (self.heads, -1)) for part in ours], dim=1)
        return self.pointwise.to_theirs([stacked.flatten(0, 2)])
