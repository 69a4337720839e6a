"""The loss that trains a denoiser."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ldm.batch import Condition
from ldm.diffusion.criterion import Criterion
from ldm.diffusion.denoiser import Denoiser
from ldm.diffusion.posterior import posterior
from ldm.diffusion.schedule import Schedule
from ldm.diffusion.timestep_sampler import TimestepSampler
from ldm.diffusion.weighting import Weighting

CONTINUOUS_STEPS = 1000
"""Number of steps of the variational bound for a continuous schedule, which has no steps of its own."""


class DenoisingLoss:
    """The denoising loss: it compares the network's output with its target at random timesteps.

    The loss is E d(sqrt(w) output, sqrt(w) target), with t from `timestep_sampler`, noise z from N(0, 1), the noisy latent
    x_t = alpha_t x + sigma_t z, the criterion d and the loss weight w. With a learned variance it is the hybrid loss
    L_simple + variational_weight L_vlb.

    With weights of pixels (masked training), the mean over the elements of a latent is a weighted one, sum(w e) / sum(w), so
    that an image's loss stays that of an element that counts, however few of them do. A weight of 1 everywhere changes
    nothing; an image of weight 0 everywhere has the loss 0.

    Args:
        timestep_sampler: The timestep sampler, which draws the timesteps to train.
        weighting: The weight of a squared error at each timestep.
        criterion: The criterion d; its mean over all elements of a latent is taken.
        noise_offset: Standard deviation of an extra noise that has the same value at all positions of a channel. With
            it, the network also learns to choose the mean of an image (Guttenberg, 2023,
            crosslabs.org/blog/diffusion-with-offset-noise).
        variational_weight: Weight of the variational bound, in nats per element. It is used only if the denoiser learns
            the variance, and trains nothing but the variance (Nichol & Dhariwal, 2021, eq. 16, arXiv:2102.09672).
        pixel_weights: Whether the field `loss_weight` of each sample says how much each of its pixels counts.

    References:
        Rombach et al., 2022, eq. 3, arXiv:2112.10752.
    """

    def __init__(
        self,
        timestep_sampler: TimestepSampler,
        weighting: Weighting,
        criterion: Criterion,
        *,
        noise_offset: float = 0.0,
        variational_weight: float = 0.001,
        pixel_weights: bool = False,
    ) -> None:
        self.timestep_sampler = timestep_sampler
        self.weighting = weighting
        self.criterion = criterion
        self.noise_offset = noise_offset
        self.variational_weight = variational_weight
        self.inputs: tuple[str, ...] = ("loss_weight",) if pixel_weights else ()

    def __call__(
        self, denoiser: Denoiser, x: Tensor, condition: Condition, *, pixel_weight: Tensor | None = None
    ) -> Tensor:
        """Return the loss of each latent. Timesteps and noise are drawn from torch's global generator.

        Args:
            denoiser: The denoiser to train.
            x: Clean latents, `(B, C, h, w)`.
            condition: The conditions of the batch.
            pixel_weight: How much each pixel of the images counts, `(B, 1, H, W)` in [0, 1], averaged over the area of each
                element of the latents; None: all count alike.

        Returns:
            The losses, `(B,)`.
        """
        weight = None if pixel_weight is None else F.interpolate(pixel_weight.to(x), x.shape[-2:], mode="area")
        t = self.timestep_sampler.sample(x.shape[0], denoiser.schedule, x.device)
        z = torch.randn_like(x)
        if self.noise_offset:
            z = z + self.noise_offset * torch.randn_like(x[:, :, :1, :1])
        alpha, sigma = (part[:, None, None, None] for part in denoiser.schedule.alpha_sigma(t))
        x_t = alpha * x + sigma * z
        output, variance = denoiser.predict(x_t, t, condition)
        target = denoiser.prediction.target(x, z, alpha, sigma)
        root = self.weighting.weight((alpha / sigma).square(), denoiser.prediction.gain(alpha, sigma)).sqrt()
        loss = _mean(self.criterion.between(root * output, root * target), weight)
        if variance is not None:
            clean = denoiser.prediction.clean(output.detach(), x_t, alpha, sigma)
            loss = loss + self.variational_weight * _bound(x, clean, variance, t, denoiser.schedule, weight)
        return loss


def _mean(errors: Tensor, weight: Tensor | None) -> Tensor:
    """Return the mean of errors, `(B, C, h, w)`, over each latent, `(B,)`, weighted by `(B, 1, h, w)` if that is given."""
    if weight is None:
        return errors.flatten(1).mean(1)
    share = weight.flatten(1).mean(1)
    return (errors * weight).flatten(1).mean(1) / torch.where(share > 0, share, 1.0)


def _bound(x: Tensor, clean: Tensor, variance: Tensor, t: Tensor, schedule: Schedule, weight: Tensor | None) -> Tensor:
    """Return the terms of the variational bound at timesteps t, in nats per element.

    The term of the last step, which ends at t = 0, is left out (zero).

    Args:
        x: Clean latents, `(B, C, h, w)`.
        clean: Estimated clean latents, `(B, C, h, w)`.
        variance: The learned variance as in `Estimate`, `(B, C, h, w)`.
        t: Timesteps, `(B,)`, in (0, 1].
        schedule: The noise schedule.
        weight: How much each element counts, `(B, 1, h, w)`; None: all count alike.

    Returns:
        The terms, `(B,)`.

    References:
        Nichol & Dhariwal, 2021, eq. 4 to 6 and 15, arXiv:2102.09672.
    """
    steps = schedule.steps or CONTINUOUS_STEPS
    late = t > 1.5 / steps
    s = torch.where(late, t - 1.0 / steps, 0.5 * t)
    at_t, at_s = (tuple(part[:, None, None, None] for part in schedule.alpha_sigma(time)) for time in (t, s))
    step = posterior(*at_t, *at_s)
    log_ratio = variance * 2.0 * (at_t[1] / at_s[1]).log()  # of the learned variance to its lower bound
    moved = (step.of_clean * (x - clean)).square() / step.lower
    divergence = 0.5 * (log_ratio - 1.0 + (1.0 + moved) * (-log_ratio).exp())
    return steps * torch.where(late, _mean(divergence, weight), 0.0)
