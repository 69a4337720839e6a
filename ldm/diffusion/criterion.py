"""The criteria of the denoising loss: L2, L1 and Huber."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch.nn.functional as F
from torch import Tensor


class Criterion(ABC):
    """A criterion that compares the output of the network with its target.

    It is not negative, and zero only if both are equal.
    """

    @abstractmethod
    def between(self, output: Tensor, target: Tensor) -> Tensor:
        """Return the error of each element.

        Args:
            output: Output of the network, of any shape.
            target: Its target, of the same shape.

        Returns:
            The errors, of the same shape, not negative.
        """


class L2(Criterion):
    """The squared error (L2), as in the LDM paper.

    Its minimum is the mean of all possible targets, which is what sampling needs.

    References:
        Ho et al., 2020, eq. 14, arXiv:2006.11239.
    """

    def between(self, output: Tensor, target: Tensor) -> Tensor:
        """Return (output - target)^2 for each element."""
        return (output - target).square()


class L1(Criterion):
    """The absolute error (L1).

    References:
        Saharia et al., 2022, section 3.2 ("L1"), arXiv:2111.05826.
    """

    def between(self, output: Tensor, target: Tensor) -> Tensor:
        """Return |output - target| for each element."""
        return (output - target).abs()


class Huber(Criterion):
    """The Huber criterion: quadratic for small errors, linear for large ones, so that outliers count less.

    For an error e it is e^2 up to |e| = delta, and the straight line delta (2 |e| - delta) beyond.

    Args:
        delta: The error at which the square turns into the line, positive. It is an error of the network's output after
            the loss weight was applied (`weighting=constant` leaves the output as it is).

    Raises:
        ValueError: If delta is not positive.

    References:
        Huber, 1964, doi:10.1214/aoms/1177703732 (here multiplied by 2, so that it equals `L2` near zero).
    """

    def __init__(self, *, delta: float = 1.0) -> None:
        if delta <= 0:
            raise ValueError(f"delta is an error and positive; got {delta}")
        self.delta = delta

    def between(self, output: Tensor, target: Tensor) -> Tensor:
        """Return the Huber error of each element."""
        return 2.0 * F.huber_loss(output, target, reduction="none", delta=self.delta)
