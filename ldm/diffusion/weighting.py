"""How much the loss at each noise level counts.

A weighting says what a squared error of the clean latent counts, but for `Constant`, which takes the network's output as it
comes. The errors themselves are scaled by its root, whatever the distance makes of them then. So with each of the others the
same estimate has the same loss, whatever the network predicts.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor


class Weighting(ABC):
    """A weight on the squared error of the network's output."""

    @abstractmethod
    def weight(self, snr: Tensor, gain: Tensor) -> Tensor:
        """Weights, not negative.

        snr   alpha_t^2 / sigma_t^2
        gain  see Prediction, of the shape of snr
        """


class Constant(Weighting):
    """The paper's simple loss: the network's output counts the same everywhere.

    Paper: Ho et al., 2020, eq. 14, arXiv:2006.11239.
    """

    def weight(self, snr: Tensor, gain: Tensor) -> Tensor:
        return torch.ones_like(snr)


class SNR(Weighting):
    """SNR: what the noise counts in the simple loss of a network that predicts it.

    Paper: Salimans & Ho, 2022, section 4, arXiv:2202.00512.
    """

    def weight(self, snr: Tensor, gain: Tensor) -> Tensor:
        return snr / gain


class MinSNR(Weighting):
    """min(SNR, gamma): low noise, where the noise is hard to tell, no longer drowns what shape and caption need.

    gamma  signal-to-noise ratio above which clean latents are weighted alike

    Paper: Hang et al., 2023, section 3.4, arXiv:2303.09556.
    """

    def __init__(self, *, gamma: float = 5.0) -> None:
        self.gamma = _positive(gamma)

    def weight(self, snr: Tensor, gain: Tensor) -> Tensor:
        return snr.clamp(max=self.gamma) / gain


class SoftMinSNR(Weighting):
    """SNR gamma / (SNR + gamma): as `MinSNR`, without its bend.

    gamma  signal-to-noise ratio of the bend

    Paper: Crowson et al., 2024, section 4.3, arXiv:2401.11605.
    """

    def __init__(self, *, gamma: float = 5.0) -> None:
        self.gamma = _positive(gamma)

    def weight(self, snr: Tensor, gain: Tensor) -> Tensor:
        return self.gamma / (1.0 + self.gamma / snr) / gain


class P2(Weighting):
    """SNR / (k + SNR)^gamma: less for the noise levels at which only what cannot be seen is cleaned.

    gamma  not negative: 0 is `SNR`, 1 (or 0.5) the paper's
    k      positive: the signal-to-noise ratio about which it begins to count less

    Paper: Choi et al., 2022, eq. 8, arXiv:2204.00227.
    """

    def __init__(self, *, gamma: float = 1.0, k: float = 1.0) -> None:
        if gamma < 0:
            raise ValueError(f"gamma is a power and not negative; got {gamma}")
        self.gamma = gamma
        self.k = _positive(k, "k")

    def weight(self, snr: Tensor, gain: Tensor) -> Tensor:
        return snr / (self.k + snr) ** self.gamma / gain


class EDM(Weighting):
    """SNR + 1: with EDM's own output scaling, our velocity prediction, it is constant.

    Paper: Karras et al., 2022, section 5 and table 1, arXiv:2206.00364, for data of unit variance.
    """

    def weight(self, snr: Tensor, gain: Tensor) -> Tensor:
        return (snr + 1.0) / gain


def _positive(value: float, name: str = "gamma") -> float:
    if value <= 0:
        raise ValueError(f"{name} is a signal-to-noise ratio and positive; got {value}")
    return value
