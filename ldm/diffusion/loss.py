"""The loss that trains a denoiser."""

from __future__ import annotations

import torch
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

    Args:
        timestep_sampler: The timestep sampler, which draws the timesteps to train.
        weighting: The weight of a squared error at each timestep.
        criterion: The criterion d; its mean over all elements of a latent is taken.
        noise_offset: Standard deviation of an extra noise that has the same value at all positions of a channel. With
            it, the network also learns to choose the mean of an image (Guttenberg, 2023,
            crosslabs.org/blog/diffusion-with-offset-noise).
        variational_weight: Weight of the variational bound, in nats per element. It is used only if the denoiser learns
            the variance, and trains nothing but the variance (Nichol & Dhariwal, 2021, eq. 16, arXiv:2102.09672).

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
    ) -> None:
        self.timestep_sampler = timestep_sampler
        self.weighting = weighting
        self.criterion = criterion
        self.noise_offset = noise_offset
        self.variational_weight = variational_weight

    def __call__(self, denoiser: Denoiser, x: Tensor, condition: Condition) -> Tensor:
        """Return the loss of each latent. Timesteps and noise are drawn from torch's global generator.

        Args:
            denoiser: The denoiser to train.
            x: Clean latents, `(B, C, h, w)`.
            condition: The conditions of the batch.

        Returns:
            The losses, `(B,)`.
        """
        t = self.timestep_sampler.sample(x.shape[0], denoiser.schedule, x.device)
        z = torch.randn_like(x)
        if self.noise_offset:
            z = z + self.noise_offset * torch.randn_like(x[:, :, :1, :1])
        alpha, sigma = (part[:, None, None, None] for part in denoiser.schedule.alpha_sigma(t))
        x_t = alpha * x + sigma * z
        output, variance = denoiser.predict(x_t, t, condition)
        target = denoiser.prediction.target(x, z, alpha, sigma)
        root = self.weighting.weight((alpha / sigma).square(), denoiser.prediction.gain(alpha, sigma)).sqrt()
        loss = self.criterion.between(root * output, root * target).flatten(1).mean(1)
        if variance is not None:
            clean = denoiser.prediction.clean(output.detach(), x_t, alpha, sigma)
            loss = loss + self.variational_weight * _bound(x, clean, variance, t, denoiser.schedule)
        return loss


def _bound(x: Tensor, clean: Tensor, variance: Tensor, t: Tensor, schedule: Schedule) -> Tensor:
    """Return the terms of the variational bound at timesteps t, in nats per element.

    The term of the last step, which ends at t = 0, is left out (zero).

    Args:
        x: Clean latents, `(B, C, h, w)`.
        clean: Estimated clean latents, `(B, C, h, w)`.
        variance: The learned variance as in `Estimate`, `(B, C, h, w)`.
        t: Timesteps, `(B,)`, in (0, 1].
        schedule: The noise schedule.

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
    return steps * torch.where(late, divergence.flatten(1).mean(1), 0.0)
