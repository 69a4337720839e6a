"""Prediction types: the target of the network, and the way back from its output to the clean latent."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor


class Prediction(ABC):
    """A prediction type: the training target, and its inverse.

    In all methods, tensors broadcast: alpha and sigma are `(B, 1, 1, 1)`, the others `(B, C, h, w)`.

    Attributes:
        tells_from_noise: Whether the clean latent follows from the output even where alpha is zero (pure noise).
    """

    tells_from_noise = True

    @abstractmethod
    def target(self, x: Tensor, z: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """Return the target of the network.

        Args:
            x: Clean latents, `(B, C, h, w)`.
            z: Noise, `(B, C, h, w)`.
            alpha: alpha_t, `(B, 1, 1, 1)`.
            sigma: sigma_t, `(B, 1, 1, 1)`.

        Returns:
            The targets, `(B, C, h, w)`.
        """

    @abstractmethod
    def clean(self, output: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """Return the clean latent that belongs to an output of the network.

        Args:
            output: Output of the network for x_t, `(B, C, h, w)`.
            x_t: Noisy latents, `(B, C, h, w)`.
            alpha: alpha_t, `(B, 1, 1, 1)`.
            sigma: sigma_t, `(B, 1, 1, 1)`.

        Returns:
            The clean latents, `(B, C, h, w)`.
        """

    @abstractmethod
    def gain(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        """Return the squared error of the output that corresponds to a squared error of 1 of the clean latent.

        Args:
            alpha: alpha_t, of any shape.
            sigma: sigma_t, of the same shape.

        Returns:
            The ratio of the two squared errors, of the same shape.
        """


class NoisePrediction(Prediction):
    """Noise prediction, as in the LDM paper ("epsilon" in diffusers): the target is the noise z.

    References:
        Ho et al., 2020, eq. 12 and 15, arXiv:2006.11239.
    """

    tells_from_noise = False

    def target(self, x: Tensor, z: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """Return z."""
        return z

    def clean(self, output: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """Return (x_t - sigma output) / alpha."""
        return (x_t - sigma * output) / alpha

    def gain(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        """Return (alpha / sigma)^2."""
        return (alpha / sigma) ** 2


class CleanPrediction(Prediction):
    """Prediction of the clean latent ("sample" in diffusers): the target is x itself.

    References:
        Salimans & Ho, 2022, section 4, arXiv:2202.00512.
    """

    def target(self, x: Tensor, z: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """Return x."""
        return x

    def clean(self, output: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """Return the output."""
        return output

    def gain(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        """Return ones."""
        return torch.ones_like(alpha)


class VelocityPrediction(Prediction):
    """Velocity prediction ("v_prediction" in diffusers): the target is v = alpha z - sigma x.

    References:
        Salimans & Ho, 2022, section 4 and appendix D, arXiv:2202.00512.
    """

    def target(self, x: Tensor, z: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """Return alpha z - sigma x."""
        return alpha * z - sigma * x

    def clean(self, output: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """Return (alpha x_t - sigma output) / (alpha^2 + sigma^2)."""
        return (alpha * x_t - sigma * output) / (alpha**2 + sigma**2)

    def gain(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        """Return ((alpha^2 + sigma^2) / sigma)^2."""
        return ((alpha**2 + sigma**2) / sigma) ** 2


class FlowPrediction(Prediction):
    """Flow prediction, as in flow matching: the target is z - x, the direction of the straight line from data to noise.

    References:
        Liu et al., 2022, eq. 1, arXiv:2209.03003 (with the opposite sign); Esser et al., 2024, eq. 4 to 8 and 13,
        arXiv:2403.03206.
    """

    def target(self, x: Tensor, z: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """Return z - x."""
        return z - x

    def clean(self, output: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """Return (x_t - sigma output) / (alpha + sigma)."""
        return (x_t - sigma * output) / (alpha + sigma)

    def gain(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        """Return ((alpha + sigma) / sigma)^2."""
        return ((alpha + sigma) / sigma) ** 2
