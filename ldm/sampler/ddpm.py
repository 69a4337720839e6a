"""Denoising diffusion probabilistic models: ancestral sampling."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from ldm.diffusion.schedule import Schedule
from ldm.sampler.base import Sampler


class DDPM(Sampler):
    """Draws x_s from its exact Gaussian posterior given x_t and the clean estimate.

    Paper: Ho et al., 2020, eq. 6 and 7, arXiv:2006.11239, between any two times.
    """

    def __init__(self, steps: int = 1000) -> None:
        super().__init__(steps)

    def step(
        self, x_t: Tensor, clean: Tensor, t: Tensor, s: Tensor, schedule: Schedule, draw: Callable[[], Tensor]
    ) -> Tensor:
        alpha_t, sigma_t = schedule.alpha_sigma(t)
        alpha_s, sigma_s = schedule.alpha_sigma(s)
        ratio = alpha_t / alpha_s
        added = sigma_t**2 - (ratio * sigma_s) ** 2
        mean = ratio * sigma_s**2 / sigma_t**2 * x_t + alpha_s * added / sigma_t**2 * clean
        return mean + (added.clamp(min=0).sqrt() * sigma_s / sigma_t) * draw()
