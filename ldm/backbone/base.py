"""The base class of backbones."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn

from ldm.batch import Condition


class Backbone(nn.Module, ABC):
    """A network that gives a prediction from a noisy latent, a timestep and a condition.

    Attributes:
        downsampling_factor: Downsampling factor: height and width of latents must be multiples of it.
        out_channels: Channels of the prediction: those of the latent, or twice as many if the variance is learned.
        deepest_channels: Channels of the output of the module `deepest`.
    """

    downsampling_factor: int
    out_channels: int
    deepest_channels: int

    @property
    @abstractmethod
    def deepest(self) -> nn.Module:
        """The module whose output has the lowest resolution, and knows most about the whole image."""

    @abstractmethod
    def forward(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """Return the prediction.

        Args:
            x_t: Noisy latents, `(B, C, h, w)`.
            t: Timesteps, `(B,)`, in [0, 1].
            condition: The conditions of the batch.

        Returns:
            The prediction, `(B, out_channels, h, w)`.
        """
