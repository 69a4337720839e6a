"""What the network predicts, and the way back from that to the clean latent."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor


class Prediction(ABC):
    """Target of training and its inverse. All tensors broadcast; alpha and sigma are `(B, 1, 1, 1)`.

    tells_from_noise  whether the clean latent follows from the output where alpha is zero
    """

    tells_from_noise = True

    @abstractmethod
    def target(self, x: Tensor, z: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """What the network should output for the clean latent x and the noise z."""

    @abstractmethod
    def clean(self, output: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """The clean latent that an output at x_t stands for."""

    @abstractmethod
    def gain(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        """Squared error of the output for a squared error of one of the clean latent."""


class Noise(Prediction):
    """The noise z, as in the paper. Paper: Ho et al., 2020, eq. 12 and 15, arXiv:2006.11239."""

    tells_from_noise = False

    def target(self, x: Tensor, z: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        return z

    def clean(self, output: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        return (x_t - sigma * output) / alpha

    def gain(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        return (alpha / sigma) ** 2


class Clean(Prediction):
    """The clean latent x itself. Paper: Salimans & Ho, 2022, section 4, arXiv:2202.00512."""

    def target(self, x: Tensor, z: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        return x

    def clean(self, output: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        return output

    def gain(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        return torch.ones_like(alpha)


class Velocity(Prediction):
    """alpha z - sigma x. Paper: Salimans & Ho, 2022, section 4 and appendix D, arXiv:2202.00512."""

    def target(self, x: Tensor, z: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        return alpha * z - sigma * x

    def clean(self, output: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        return (alpha * x_t - sigma * output) / (alpha**2 + sigma**2)

    def gain(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        return ((alpha**2 + sigma**2) / sigma) ** 2


class Flow(Prediction):
    """z - x, the direction of the straight line from data to noise.

    Paper: Liu et al., 2022, eq. 1, arXiv:2209.03003 (with the opposite sign); Esser et al., 2024, eq. 4 to 8 and 13,
    arXiv:2403.03206.
    """

    def target(self, x: Tensor, z: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        return z - x

    def clean(self, output: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        return (x_t - sigma * output) / (alpha + sigma)

    def gain(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        return ((alpha + sigma) / sigma) ** 2
