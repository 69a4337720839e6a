"""No regularisation, and the first stage that only copies: diffusion in the space of pixels."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from ldm.autoencoder.base import Autoencoder
from ldm.autoencoder.regularizer import Penalty, Point, Regularizer
from ldm.options.rule import OneOf, check


class IdentityRegularizer(Regularizer[Point]):
    """Leaves raw latents as the encoder gives them, at no cost."""

    moments_per_channel = 1
    metrics = ()
    num_sums = 0

    def forward(self, moments: Tensor) -> Point:
        """Return the raw latents `(B, C, h, w)` as an encoding without spread."""
        return Point(moments)

    def project(self, raw: Tensor, encoding: Point | None = None) -> Tensor:
        """Return raw latents as they are; see `Regularizer.project`."""
        return raw

    def penalty(self, encoding: Point, values: int) -> Penalty:
        """Return zero, and nothing to log."""
        return Penalty(encoding.mean.new_zeros(()), {}, encoding.mean.new_zeros(0))

    def metrics_of(self, sums: Tensor) -> dict[str, Tensor]:
        """Return no scores."""
        return {}

    def after_batch(self, encoding: Point, *, stepped: bool) -> None:
        """Do nothing: there is nothing to learn."""

    def initialize(self, layer: nn.Conv2d) -> None:
        """Leave the layer as it is."""

    def encoding_parts(self) -> Sequence[nn.Module]:
        """Return no modules."""
        return []


NOTHING_TO_TRAIN = "autoencoder=identity only copies, so that there is nothing to train; leave out the stage"


class CopyAutoencoder(Autoencoder):
    """The first stage of pixel diffusion: latents are the images themselves, f = 1; there is nothing to train.

    Shift and scale stay 0 and 1, and count as known.

    Args:
        latent_channels: Channels of the latent, those of an image: 3.

    Raises:
        ValueError: If the number of channels is another.

    References:
        Rombach et al., 2022, section 4.1 (LDM-1), arXiv:2112.10752.
    """

    def __init__(self, *, latent_channels: int = 3) -> None:
        check("autoencoder.network.latent_channels", latent_channels, OneOf((3,)))
        super().__init__(IdentityRegularizer(), latent_channels, 1)
        self.statistics_count.fill_(1)

    def encode_moments(self, image: Tensor) -> Tensor:
        """Return the images; see `Autoencoder.encode_moments`."""
        return image

    def decode_projected(self, projected: Tensor) -> Tensor:
        """Return the latents; see `Autoencoder.decode_projected`."""
        return projected

    def encoding_layers(self) -> Sequence[nn.Module]:
        """Return no modules."""
        return []

    def last_layer(self) -> Tensor:
        """Raise a ValueError: there is no layer to train."""
        raise ValueError(NOTHING_TO_TRAIN)

    def last_encoding_layer(self) -> Tensor:
        """Raise a ValueError: there is no layer to train."""
        raise ValueError(NOTHING_TO_TRAIN)
