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


class MinSNR(Weighting):
    """min(SNR, gamma) / SNR: low noise, where the noise is hard to tell, no longer drowns what shape and caption need.

    For the noise prediction this is the squared error of the clean latent, weighted by min(SNR, gamma).

    gamma  signal-to-noise ratio from which on the weight falls

    Paper: Hang et al., 2023, section 3.4, arXiv:2303.09556.
    """

    def __init__(self, *, gamma: float = 5.0) -> None:
        if gamma <= 0:
            raise ValueError(f"gamma is a signal-to-noise ratio and positive; got {gamma}")
        self.gamma = gamma

    def weight(self, log_snr: Tensor) -> Tensor:
        return (self.gamma * torch.exp(-log_snr)).clamp(max=1.0)
