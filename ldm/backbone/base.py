"""What every backbone is."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn

from ldm.batch import Condition


class Backbone(nn.Module, ABC):
    """A network that predicts something about the clean latent from a noisy one.

    factor            sides of latents must be multiples of it
    out_channels      of the prediction: those of the latent, or twice as many where the variance is learned
    deepest_channels  of what the module `deepest` gives
    """

    factor: int
    out_channels: int
    deepest_channels: int

    @property
    @abstractmethod
    def deepest(self) -> nn.Module:
        """The module that gives the features of the lowest resolution, which know most of the whole image."""

    @abstractmethod
    def forward(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """x_t `(B, C, h, w)`, t `(B,)` in [0, 1] -> prediction `(B, out_channels, h, w)`."""
