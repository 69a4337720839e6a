"""What the network predicts, and the way back from that to the clean latent."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor


class Prediction(ABC):
    """Target of training and its inverse. All tensors broadcast; alpha and sigma are `(B, 1, 1, 1)`."""

    @abstractmethod
    def target(self, x: Tensor, z: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """What the network should output for the clean latent x and the noise z."""

    @abstractmethod
    def clean(self, output: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """The clean latent that an output at x_t stands for."""


class Noise(Prediction):
    """The noise z, as in the paper. Paper: Ho et al., 2020, eq. 12 and 15, arXiv:2006.11239."""

    def target(self, x: Tensor, z: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        return z

    def clean(self, output: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        return (x_t - sigma * output) / alpha


class Clean(Prediction):
    """The clean latent x itself. Paper: Salimans & Ho, 2022, section 4, arXiv:2202.00512."""

    def target(self, x: Tensor, z: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        return x

    def clean(self, output: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        return output


class Velocity(Prediction):
    """alpha z - sigma x. Paper: Salimans & Ho, 2022, section 4 and appendix D, arXiv:2202.00512."""

    def target(self, x: Tensor, z: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        return alpha * z - sigma * x

    def clean(self, output: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        return alpha * x_t - sigma * output
