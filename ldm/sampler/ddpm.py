"""Denoising diffusion probabilistic models (DDPM): ancestral sampling."""

from __future__ import annotations

import math

from torch import Tensor

from ldm.diffusion.posterior import posterior
from ldm.sampler.base import Sampler
from ldm.sampler.timestep_spacing import TimestepSpacing
from ldm.sampler.trajectory import NoiseLevel, Trajectory


class DDPM(Sampler):
    """DDPM: x_s is drawn from its Gaussian posterior given x_t and the clean estimate.

    x_s = of_noisy x_t + of_clean x + sqrt(lower^(1 - f) upper^f) z, with the coefficients and the variances of
    `TransitionPosterior`. f is the learned variance if there is one, otherwise 0.

    Args:
        steps: Number of steps, one call of the denoiser each.
        timestep_spacing: The timestep spacing; None: `UniformSpacing`.

    References:
        Ho et al., 2020, eq. 6 and 7, arXiv:2006.11239, between any two timesteps; Nichol & Dhariwal, 2021, eq. 15,
        arXiv:2102.09672.
    """

    draws = True

    def __init__(self, steps: int = 250, *, timestep_spacing: TimestepSpacing | None = None) -> None:
        super().__init__(steps, timestep_spacing)

    def step(self, x: Tensor, here: NoiseLevel, there: NoiseLevel, trajectory: Trajectory) -> Tensor:
        """Make one step; see `Sampler.step`."""
        clean, variance = trajectory.estimate(x, here)
        one = posterior(here.alpha, here.sigma, there.alpha, there.sigma)
        mean = one.of_noisy * x + one.of_clean * clean
        if not there.sigma:
            return mean
        noise = one.lower**0.5 * trajectory.draw()
        return mean + (noise if variance is None else noise * (variance * math.log(here.sigma / there.sigma)).exp())
