"""Denoising diffusion implicit models."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from ldm.diffusion.schedule import Schedule
from ldm.sampler.base import Sampler


class DDIM(Sampler):
    """First-order steps along the probability flow; eta adds noise, up to DDPM's variance at eta = 1.

    Paper: Song et al., 2021, eq. 12 and 16, arXiv:2010.02502.
    """

    def __init__(self, steps: int = 50, *, eta: float = 0.0) -> None:
        super().__init__(steps)
        if eta < 0:
            raise ValueError(f"eta is a share of DDPM's noise and cannot be negative; got {eta}")
        self.eta = eta

    def step(
        self, x_t: Tensor, clean: Tensor, t: Tensor, s: Tensor, schedule: Schedule, draw: Callable[[], Tensor]
    ) -> Tensor:
        alpha_t, sigma_t = schedule.alpha_sigma(t)
        alpha_s, sigma_s = schedule.alpha_sigma(s)
        predicted = (x_t - alpha_t * clean) / sigma_t
        if self.eta == 0:
            return alpha_s * clean + sigma_s * predicted
        fresh = self.eta * sigma_s / sigma_t * (1 - (alpha_t / alpha_s) ** 2).sqrt()
        kept = (sigma_s**2 - fresh**2).clamp(min=0).sqrt()
        return alpha_s * clean + kept * predicted + fresh * draw()
