"""Loss weightings: how much the loss counts at each noise level.

A weighting is a weight on the squared error of the clean latent; only `ConstantWeighting` is one on the squared error of the
network's output. With every weighting but `ConstantWeighting`, the same estimate therefore has the same loss for all prediction
types. The errors are multiplied by the square root of the weight before the criterion (L2, L1, Huber) sees them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor


class Weighting(ABC):
    """A loss weighting: a weight on the squared error of the network's output."""

    @abstractmethod
    def weight(self, snr: Tensor, gain: Tensor) -> Tensor:
        """Return the weights of squared errors of the network's output.

        Args:
            snr: Signal-to-noise ratios alpha_t^2 / sigma_t^2, of any shape.
            gain: `Prediction.gain`, of the same shape.

        Returns:
            The weights, not negative, of the same shape.
        """


class ConstantWeighting(Weighting):
    """The weight 1 on the network's output: DDPM's simple loss.

    References:
        Ho et al., 2020, eq. 14, arXiv:2006.11239.
    """

    def weight(self, snr: Tensor, gain: Tensor) -> Tensor:
        """Return ones."""
        return torch.ones_like(snr)


class SNRWeighting(Weighting):
    """The weight SNR on the clean latent: the simple loss of a network that predicts the noise.

    References:
        Salimans & Ho, 2022, section 4, arXiv:2202.00512.
    """

    def weight(self, snr: Tensor, gain: Tensor) -> Tensor:
        """Return SNR / gain."""
        return snr / gain


class MinSNRWeighting(Weighting):
    """The weight min(SNR, gamma) on the clean latent.

    Low noise levels, where the noise is hard to tell, then no longer drown those that matter for shape and caption.

    Args:
        gamma: The signal-to-noise ratio above which all clean latents have the same weight, positive.

    Raises:
        ValueError: If gamma is not positive.

    References:
        Hang et al., 2023, section 3.4, arXiv:2303.09556.
    """

    def __init__(self, *, gamma: float = 5.0) -> None:
        self.gamma = _positive(gamma)

    def weight(self, snr: Tensor, gain: Tensor) -> Tensor:
        """Return min(SNR, gamma) / gain."""
        return snr.clamp(max=self.gamma) / gain


class SoftMinSNRWeighting(Weighting):
    """The weight SNR gamma / (SNR + gamma) on the clean latent: a smooth `MinSNRWeighting`.

    Args:
        gamma: The signal-to-noise ratio around which the weight levels off, positive.

    Raises:
        ValueError: If gamma is not positive.

    References:
        Crowson et al., 2024, section 4.3, arXiv:2401.11605.
    """

    def __init__(self, *, gamma: float = 5.0) -> None:
        self.gamma = _positive(gamma)

    def weight(self, snr: Tensor, gain: Tensor) -> Tensor:
        """Return SNR gamma / (SNR + gamma) / gain."""
        return self.gamma / (1.0 + self.gamma / snr) / gain


class P2Weighting(Weighting):
    """The weight SNR / (k + SNR)^gamma on the clean latent.

    It is small at low noise levels, where the network only removes noise that nobody can see.

    Args:
        gamma: Exponent, not negative: 0 is `SNRWeighting`, 1 (or 0.5) is that of Choi et al.
        k: The signal-to-noise ratio around which the weight begins to fall, positive.

    Raises:
        ValueError: If gamma is negative or k is not positive.

    References:
        Choi et al., 2022, eq. 8, arXiv:2204.00227.
    """

    def __init__(self, *, gamma: float = 1.0, k: float = 1.0) -> None:
        if gamma < 0:
            raise ValueError(f"gamma is a power and not negative; got {gamma}")
        self.gamma = gamma
        self.k = _positive(k, "k")

    def weight(self, snr: Tensor, gain: Tensor) -> Tensor:
        """Return SNR / (k + SNR)^gamma / gain."""
        return snr / (self.k + snr) ** self.gamma / gain


class EDMWeighting(Weighting):
    """EDM's weight SNR + 1 on the clean latent, for data of unit variance.

    For the velocity prediction, which is EDM's own output scaling, it is a constant weight on the output.

    References:
        Karras et al., 2022, section 5 and table 1, arXiv:2206.00364.
    """

    def weight(self, snr: Tensor, gain: Tensor) -> Tensor:
        """Return (SNR + 1) / gain."""
        return (snr + 1.0) / gain


def _positive(value: float, name: str = "gamma") -> float:
    """Return the value, or raise ValueError if it is not positive."""
    if value <= 0:
        raise ValueError(f"{name} is a signal-to-noise ratio and positive; got {value}")
    return value
