"""The losses of the autoencoder and of its discriminator."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from ldm.autoencoder.base import Posterior
from ldm.autoencoder.discriminator import hinge_loss
from ldm.options import NOT_NEGATIVE, Whole, check

MOST_WEIGHT = 1e4
"""The most that the adaptive weight may be, for a reconstruction loss summed over the image, as in the paper's own code."""


class LossParts(NamedTuple):
    """What the autoencoder's loss is made of; scalars, `kl` in nats an image."""

    total: Tensor
    reconstruction: Tensor
    kl: Tensor
    adversarial: Tensor
    adversarial_weight: Tensor


class AutoencoderLoss(nn.Module):
    """L1 + perceptual + KL + PatchGAN.

    The paper's own code sums over the N values of an image; here everything is a mean over them, so that learning rate,
    clipping and logged numbers do not depend on the image side. The whole loss, with the adversarial term and its
    adaptive weight, is exactly theirs divided by N, and so is each gradient. (Theirs has one more number, a learned
    log-variance of the error; it starts at 0 and no optimiser is given it, so it stays 0 and is left out here.)

    discriminator       judges images; None: no adversarial term
    kl_weight           of the KL divergence, relative to a reconstruction loss summed over the image (paper: 1e-6)
    squared_weight      of a squared error beside the absolute one (paper: 0)
    perceptual          a distance between two batches of images -> `(B,)`; None: no perceptual term
    perceptual_weight   of that distance, which counts for each value of the image as its L1 error does (paper: 1)
    adversarial_weight  of the adversarial term, on top of the adaptive weight (paper: 0.5)
    start_step          first step with the adversarial term and the first at which the discriminator learns

    Paper: Rombach et al., 2022, appendix G, arXiv:2112.10752; Esser et al., 2021, eq. 7, arXiv:2012.09841.
    """

    def __init__(
        self,
        discriminator: nn.Module | None = None,
        *,
        kl_weight: float = 1e-6,
        squared_weight: float = 0.0,
        perceptual: nn.Module | None = None,
        perceptual_weight: float = 1.0,
        adversarial_weight: float = 0.5,
        start_step: int = 50_001,
    ) -> None:
        super().__init__()
        weights = {"kl_weight": kl_weight, "squared_weight": squared_weight, "perceptual_weight": perceptual_weight}
        for name, weight in {**weights, "adversarial_weight": adversarial_weight}.items():
            check(f"stage.autoencoder.loss.{name}", weight, NOT_NEGATIVE)
        check("stage.autoencoder.loss.start_step", start_step, Whole(0))
        self.discriminator = discriminator
        self.kl_weight = kl_weight
        self.squared_weight = squared_weight
        self.perceptual = perceptual
        self.perceptual_weight = perceptual_weight
        self.adversarial_weight = adversarial_weight
        self.start_step = start_step

    def adversarial(self, step: int) -> bool:
        """Whether the discriminator takes part at this step."""
        return self.discriminator is not None and step >= self.start_step

    def autoencoder(
        self, image: Tensor, reconstruction: Tensor, posterior: Posterior, *, last_layer: Tensor, step: int
    ) -> LossParts:
        """Loss of the autoencoder; image and reconstruction `(B, 3, H, W)` in [-1, 1]."""
        error = reconstruction.float() - image
        restored = error.abs().mean() + self.squared_weight * error.square().mean()
        if self.perceptual is not None:
            restored = restored + self.perceptual_weight * self.perceptual(image, reconstruction).mean()
        kl = posterior.kl().mean()
        values = image[0].numel()
        total = restored + self.kl_weight * kl / values
        zero = restored.new_zeros(())
        if self.discriminator is None or not self.adversarial(step):
            return LossParts(total, restored, kl, zero, zero)
        adversarial = -self.discriminator(reconstruction).float().mean()
        weight = self.adversarial_weight * adaptive_weight(restored, adversarial, last_layer, values)
        return LossParts(total + weight * adversarial, restored, kl, adversarial, weight)

    def judge(self, image: Tensor, reconstruction: Tensor) -> Tensor:
        """Loss of the discriminator. The reconstruction is detached: no gradient reaches the autoencoder."""
        if self.discriminator is None:
            raise ValueError("there is no discriminator to train; build AutoencoderLoss with one")
        real = self.discriminator(image).float()
        fake = self.discriminator(reconstruction.detach()).float()
        return hinge_loss(real, fake)


def adaptive_weight(reconstruction: Tensor, adversarial: Tensor, last_layer: Tensor, values: int) -> Tensor:
    """Return the ratio of the two losses' gradient norms at the decoder's last layer, in [0, 1e4 / values].

    It is that of the paper's own code divided by `values`, as the whole loss is. There, the reconstruction loss is a sum
    over an image, the adversarial one a mean over the verdicts as here: so only the upper norm and the limit are divided.

    Args:
        reconstruction: Loss, a mean over the values of an image.
        adversarial: Loss.
        last_layer: Weight of the decoder's last layer.
        values: Number of values of an image, C * H * W.

    References: Esser et al., 2021, eq. 7, arXiv:2012.09841.
    """
    (wanted,) = torch.autograd.grad(reconstruction, last_layer, retain_graph=True)
    (given,) = torch.autograd.grad(adversarial, last_layer, retain_graph=True)
    return (wanted.norm() / (given.norm() + 1e-4)).clamp(0.0, MOST_WEIGHT / values).detach()
