"""Which times are trained."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor


class Times(ABC):
    """A distribution over t in [0, 1]."""

    @abstractmethod
    def sample(self, count: int, device: torch.device) -> Tensor:
        """`count` times, `(count,)`, fp32."""


class Uniform(Times):
    """One of the `steps` discrete times t = (i + 1) / steps, each as likely. Paper: Ho et al., 2020, arXiv:2006.11239."""

    def __init__(self, *, steps: int = 1000) -> None:
        self.steps = steps

    def sample(self, count: int, device: torch.device) -> Tensor:
        return torch.randint(1, self.steps + 1, (count,), device=device) / self.steps


class Stratified(Times):
    """As `Uniform`, but one time from each of `count` equal parts of [0, 1], so that a batch covers all noise levels.

    Each time alone is still uniform over the discrete steps; the loss has less variance. Paper: Kingma et al., 2021,
    appendix I.1, arXiv:2107.00630.
    """

    def __init__(self, *, steps: int = 1000) -> None:
        self.steps = steps

    def sample(self, count: int, device: torch.device) -> Tensor:
        places = (torch.rand((), device=device) + torch.arange(count, device=device) / count) % 1.0
        return (places * self.steps).floor().clamp(max=self.steps - 1).add(1.0) / self.steps
