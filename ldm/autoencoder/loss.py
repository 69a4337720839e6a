"""The losses of the autoencoder and of its discriminator."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from ldm.autoencoder.discriminator import hinge_loss
from ldm.options.rule import FLAG, NOT_NEGATIVE, Whole, check

MOST_WEIGHT = 1e4
"""Upper limit of the adaptive weight for a reconstruction loss as the LDM code computes it."""


class LossParts(NamedTuple):
    """The parts of the autoencoder's loss, all scalars.

    Attributes:
        total: The loss that is minimised.
        reconstruction: L1, squared and perceptual error together, a mean over the values of an image.
        adversarial: The adversarial term without its weight.
        adversarial_weight: The weight of the adversarial term, with the adaptive weight.
    """

    total: Tensor
    reconstruction: Tensor
    adversarial: Tensor
    adversarial_weight: Tensor


class AutoencoderLoss(nn.Module):
    """The loss of the autoencoder: L1 + squared error + perceptual + PatchGAN + the regulariser's, each with its weight.

    In the LDM code, the loss of KL models is a sum over the N values of an image, that of VQ models a mean. Here
    everything is a mean over them, so that learning rate, gradient clipping and logged numbers do not depend on the image
    size. For KL models the whole loss, with the adversarial term and its adaptive weight, is exactly theirs divided by N,
    and so is each gradient. (Theirs has one more number, a learned log-variance of the error. It starts at 0 and no
    optimizer gets it, so it stays 0, and is left out here.) For VQ models it is exactly theirs.

    Args:
        discriminator: The discriminator; None: there is no adversarial term.
        absolute_weight: Weight of the absolute error (LDM: 1).
        squared_weight: Weight of the squared error (LDM: 0).
        perceptual: A distance between two batches of images, `(B,)`; None: there is no perceptual term.
        perceptual_weight: Weight of that distance, which counts for each value of the image as its L1 error does
            (LDM: 1).
        adversarial_weight: Weight of the adversarial term, on top of the adaptive weight (LDM: 0.5 with KL).
        start_step: The first step with the adversarial term, at which the discriminator also begins to learn.
        summed_limit: The limit 1e4 of the adaptive weight holds for a reconstruction loss that is summed over the image, as
            in the LDM code for KL models; False: for the mean, as in that for VQ models.

    Raises:
        ValueError: If an option is out of its range, or nothing compares images with their reconstructions.

    References:
        Rombach et al., 2022, appendix G, arXiv:2112.10752; Esser et al., 2021, eq. 7, arXiv:2012.09841.
    """

    def __init__(
        self,
        discriminator: nn.Module | None = None,
        *,
        absolute_weight: float = 1.0,
        squared_weight: float = 0.0,
        perceptual: nn.Module | None = None,
        perceptual_weight: float = 1.0,
        adversarial_weight: float = 0.5,
        start_step: int = 50_001,
        summed_limit: bool = True,
    ) -> None:
        super().__init__()
        weights = {
            "absolute_weight": absolute_weight,
            "squared_weight": squared_weight,
            "perceptual_weight": perceptual_weight,
        }
        for name, weight in {**weights, "adversarial_weight": adversarial_weight}.items():
            check(f"stage.autoencoder.loss.{name}", weight, NOT_NEGATIVE)
        if not absolute_weight and not squared_weight and not (perceptual is not None and perceptual_weight):
            raise ValueError(
                "absolute_weight, squared_weight and the perceptual term are all 0, so that nothing compares images with their "
                "reconstructions; give stage.autoencoder.loss.absolute_weight=1, or another of them"
            )
        check("stage.autoencoder.loss.start_step", start_step, Whole(0))
        check("stage.autoencoder.loss.summed_limit", summed_limit, FLAG)
        self.discriminator = discriminator
        self.absolute_weight = absolute_weight
        self.squared_weight = squared_weight
        self.perceptual = perceptual
        self.perceptual_weight = perceptual_weight
        self.adversarial_weight = adversarial_weight
        self.start_step = start_step
        self.summed_limit = summed_limit

    def adversarial(self, step: int) -> bool:
        """Return whether the discriminator takes part at this step."""
        return self.discriminator is not None and step >= self.start_step

    def autoencoder(
        self, image: Tensor, reconstruction: Tensor, regularization: Tensor, *, last_layer: Tensor, step: int
    ) -> LossParts:
        """Return the loss of the autoencoder.

        Args:
            image: Images, `(B, 3, H, W)`, in [-1, 1].
            reconstruction: Their reconstructions, `(B, 3, H, W)`.
            regularization: The regulariser's loss, with its weight, a scalar.
            last_layer: Weight of the decoder's last layer.
            step: Number of the training step.

        Returns:
            The loss and its parts.
        """
        restored = self.reconstruction(image, reconstruction)
        total = restored + regularization
        zero = restored.new_zeros(())
        if self.discriminator is None or not self.adversarial(step):
            return LossParts(total, restored, zero, zero)
        adversarial = -self.discriminator(reconstruction).float().mean()
        limit = MOST_WEIGHT / (image[0].numel() if self.summed_limit else 1)
        weight = self.adversarial_weight * adaptive_weight(restored, adversarial, last_layer, limit)
        return LossParts(total + weight * adversarial, restored, adversarial, weight)

    def reconstruction(self, image: Tensor, reconstruction: Tensor) -> Tensor:
        """Return absolute, squared and perceptual error together, a mean over the values of an image.

        Args:
            image: Images, `(B, 3, H, W)`, in [-1, 1].
            reconstruction: Their reconstructions, `(B, 3, H, W)`.

        Returns:
            The loss, a scalar.
        """
        error = reconstruction.float() - image
        restored = self.absolute_weight * error.abs().mean() + self.squared_weight * error.square().mean()
        if self.perceptual is not None:
            restored = restored + self.perceptual_weight * self.perceptual(image, reconstruction).mean()
        return restored

    def discriminator_loss(self, image: Tensor, reconstruction: Tensor) -> Tensor:
        """Return the loss of the discriminator, a scalar.

        The reconstruction is detached: no gradient reaches the autoencoder.

        Args:
            image: Images, `(B, 3, H, W)`, in [-1, 1].
            reconstruction: Their reconstructions, `(B, 3, H, W)`.

        Returns:
            The hinge loss.

        Raises:
            ValueError: If there is no discriminator.
        """
        if self.discriminator is None:
            raise ValueError("there is no discriminator to train; build AutoencoderLoss with one")
        real = self.discriminator(image).float()
        fake = self.discriminator(reconstruction.detach()).float()
        return hinge_loss(real, fake)


def adaptive_weight(reconstruction: Tensor, other: Tensor, last_layer: Tensor, limit: float) -> Tensor:
    """Return the ratio of the gradient norms of two losses at a layer, in [0, limit].

    Multiplied by it, the other loss has a gradient there as large as that of the reconstruction loss.

    Where the LDM code sums the reconstruction loss over the N values of an image, its weight of the adversarial loss at the
    decoder's last layer is N times this one, as its whole loss is N times this one: the adversarial loss is a mean over the
    logits, there as here, so only the norm in the numerator and the limit are divided.

    Args:
        reconstruction: Reconstruction loss, a scalar, a mean over the values of an image.
        other: The loss to be weighted, a scalar.
        last_layer: Weight of the layer.
        limit: Upper limit.

    Returns:
        The weight, a scalar without gradient.

    References:
        Esser et al., 2021, eq. 7, arXiv:2012.09841.
    """
    (wanted,) = torch.autograd.grad(reconstruction, last_layer, retain_graph=True)
    (given,) = torch.autograd.grad(other, last_layer, retain_graph=True)
    ratio: Tensor = wanted.norm() / (given.norm() + 1e-4)
    return ratio.clamp(0.0, limit).detach()
