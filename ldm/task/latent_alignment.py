"""Alignment of latents: raw latents are trained to resemble the features of a pretrained vision encoder (VA-VAE)."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor, nn

from ldm.autoencoder.loss import adaptive_weight
from ldm.options.rule import NOT_NEGATIVE, Real, check
from ldm.pretrained.precision import full_precision
from ldm.pretrained.vision import FeatureMapEncoder


class VFLoss(nn.Module):
    """The vision foundation model alignment loss: projected latents resemble features, place by place and in their relations.

    The encoder is frozen. A linear projection takes raw latents to as many numbers as a feature has; it is trained with the
    autoencoder and thrown away afterwards. Features are resized to the places of the latents where they have others.

    Args:
        latent_channels: Channels C of the raw latents.
        encoder: The vision encoder, whose features are the target.
        weight: Weight of this loss: at the encoder's last layer its gradient is so many times as large as that of the
            reconstruction loss.
        cosine_margin: Latents whose cosine with their feature is 1 minus this margin are near enough, in [0, 2].
        distance_margin: Cosines between two places may differ by so much in latents and in features, in [0, 2].

    References:
        Yao et al., 2025, section 3.2, arXiv:2501.01423.
    """

    def __init__(
        self,
        latent_channels: int,
        encoder: FeatureMapEncoder,
        *,
        weight: float = 0.1,
        cosine_margin: float = 0.5,
        distance_margin: float = 0.25,
    ) -> None:
        super().__init__()
        check("latent_alignment.weight", weight, NOT_NEGATIVE)
        check("latent_alignment.cosine_margin", cosine_margin, Real(0.0, 2.0))
        check("latent_alignment.distance_margin", distance_margin, Real(0.0, 2.0))
        self._encoder = (encoder,)  # in a tuple, so that it is neither saved nor averaged
        self.weight = weight
        self.cosine_margin = cosine_margin
        self.distance_margin = distance_margin
        self.project = nn.Conv2d(latent_channels, encoder.width, 1, bias=False)

    def forward(self, raw: Tensor, image: Tensor, *, reconstruction: Tensor, last_layer: Tensor) -> Tensor:
        """Return the weighted loss.

        Args:
            raw: Raw latents, `(B, C, h, w)`.
            image: The images that they were made of, `(B, 3, H, W)`, in [-1, 1].
            reconstruction: The reconstruction loss of the same batch, a scalar.
            last_layer: Weight of the encoder's last layer.

        Returns:
            The loss, a scalar.
        """
        loss = self.distance(raw, image)
        return self.weight * adaptive_weight(reconstruction, loss, last_layer, math.inf) * loss

    def distance(self, raw: Tensor, image: Tensor) -> Tensor:
        """Return the loss without its weight, a scalar; the arguments are those of `forward`."""
        with full_precision(raw.device):
            wanted = self._encoder[0].to(raw.device)(image.float())
            if wanted.shape[2:] != raw.shape[2:]:
                wanted = F.interpolate(wanted, raw.shape[2:], mode="bilinear", antialias=True)
            projected = self.project(raw.float())
            cosines = marginal_cosine(projected, wanted, self.cosine_margin)
            return cosines + marginal_distance_matrix(projected, wanted, self.distance_margin)


def marginal_cosine(latent: Tensor, feature: Tensor, margin: float) -> Tensor:
    """Return the marginal cosine similarity loss: by how much 1 minus the cosine exceeds a margin, a mean over places.

    Args:
        latent: Projected latents, `(B, D, h, w)`.
        feature: Features, `(B, D, h, w)`.
        margin: The margin.

    Returns:
        The loss, a scalar.

    References:
        Yao et al., 2025, section 3.2, arXiv:2501.01423.
    """
    return F.relu(1.0 - margin - F.cosine_similarity(latent, feature, dim=1)).mean()


def marginal_distance_matrix(latent: Tensor, feature: Tensor, margin: float) -> Tensor:
    """Return the marginal distance matrix similarity loss: by how much cosines between places differ beyond a margin.

    It is a mean over all pairs of places of an image, of the cosine between the two latents against that between the features.

    Args:
        latent: Projected latents, `(B, D, h, w)`.
        feature: Features, `(B, D', h, w)`.
        margin: The margin.

    Returns:
        The loss, a scalar.

    References:
        Yao et al., 2025, section 3.2, arXiv:2501.01423.
    """
    return F.relu((_cosines(latent) - _cosines(feature)).abs() - margin).mean()


def _cosines(maps: Tensor) -> Tensor:
    """Return the cosines between all places of each map, `(B, h w, h w)`."""
    vectors = F.normalize(maps.flatten(2), dim=1)
    return vectors.transpose(1, 2) @ vectors
