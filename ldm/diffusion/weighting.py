"""How much the loss at each noise level counts."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor


class Weighting(ABC):
    """A weight on the squared error of the network's output."""

    @abstractmethod
    def weight(self, log_snr: Tensor) -> Tensor:
        """log_snr `(B,)` -> weight `(B,)`, not negative."""


class Constant(Weighting):
    """The paper's simple loss: every noise level counts the same. Paper: Ho et al., 2020, eq. 14, arXiv:2006.11239."""

    def weight(self, log_snr: Tensor) -> Tensor:
        return torch.ones_like(log_snr)
