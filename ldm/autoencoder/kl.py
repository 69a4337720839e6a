"""The KL regulariser: a Gaussian posterior that is kept near the standard normal."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ldm.autoencoder.regularizer import Encoding, Penalty, Regularizer
from ldm.options.rule import NOT_NEGATIVE, Real, check


class Posterior(Encoding):
    """A diagonal Gaussian distribution over raw latents.

    Args:
        moments: Mean and log-variance, concatenated along the channels, `(B, 2C, h, w)`.

    References:
        Kingma & Welling, 2014, appendix B, arXiv:1312.6114.
    """

    def __init__(self, moments: Tensor) -> None:
        self.moments = moments
        self.mean, log_variance = moments.float().chunk(2, dim=1)
        self.log_variance = log_variance.clamp(-30.0, 20.0)

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """Draw raw latents; see `Encoding.sample`."""
        noise = torch.randn(self.mean.shape, generator=generator, device=self.mean.device)
        return self.mean + (0.5 * self.log_variance).exp() * noise

    def kl(self) -> Tensor:
        """Return the KL divergence to the standard normal in nats per image, `(B,)`."""
        terms = self.mean.square() + self.log_variance.exp() - 1.0 - self.log_variance
        return 0.5 * terms.flatten(1).sum(1)


class KLRegularizer(Regularizer[Posterior]):
    """The encoder gives a Gaussian for each value of the raw latent; its KL divergence to the standard normal is the cost.

    Args:
        weight: Weight of the KL divergence, relative to a reconstruction loss summed over the image (LDM: 1e-6).
        log_variance: Log-variance of the posterior at the start of training, in [-30, 20] (LDM: 0). With -6, short
            runs need not spend time on learning that the noise of the posterior hurts.

    Raises:
        ValueError: If an option is out of its range.

    References:
        Rombach et al., 2022, section 3.1, appendix G, arXiv:2112.10752.
    """

    moments_per_channel = 2
    metrics = ("kl",)
    num_sums = 0

    def __init__(self, *, weight: float = 1e-6, log_variance: float = 0.0) -> None:
        super().__init__()
        check("autoencoder.network.regularizer.weight", weight, NOT_NEGATIVE)
        check("autoencoder.network.regularizer.log_variance", log_variance, Real(-30.0, 20.0))
        self.weight = weight
        self.log_variance = log_variance

    def forward(self, moments: Tensor) -> Posterior:
        """Return the posterior of its moments, `(B, 2C, h, w)`."""
        return Posterior(moments)

    def project(self, raw: Tensor, encoding: Posterior | None = None) -> Tensor:
        """Return raw latents as they are; see `Regularizer.project`."""
        return raw

    def penalty(self, encoding: Posterior, values: int) -> Penalty:
        """Return the weighted KL divergence, and log it in nats per image; see `Regularizer.penalty`."""
        kl = encoding.kl().mean()
        return Penalty(self.weight * kl / values, {"kl": kl}, kl.new_zeros(0))

    def metrics_of(self, sums: Tensor) -> dict[str, Tensor]:
        """Return no scores."""
        return {}

    def after_batch(self, encoding: Posterior, *, stepped: bool) -> None:
        """Do nothing: all is learned by gradients."""

    def initialize(self, layer: nn.Conv2d) -> None:
        """Set the log-variance; see `Regularizer.initialize`."""
        assert layer.bias is not None
        nn.init.constant_(layer.bias[layer.out_channels // 2 :], self.log_variance)

    def encoding_parts(self) -> Sequence[nn.Module]:
        """Return no modules."""
        return []
