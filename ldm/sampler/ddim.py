"""Denoising diffusion implicit models (DDIM)."""

from __future__ import annotations

from torch import Tensor

from ldm.options.rule import NOT_NEGATIVE, check
from ldm.sampler.base import Sampler
from ldm.sampler.timestep_spacing import TimestepSpacing
from ldm.sampler.trajectory import NoiseLevel, Trajectory


class DDIM(Sampler):
    """DDIM: first-order steps along the probability flow ODE. `eta` adds noise, up to DDPM's at eta = 1.

    x_s = alpha_s x + sqrt(sigma_s^2 - v) (x_t - alpha_t x) / sigma_t + sqrt(v) z with the clean estimate x, fresh noise
    z and v = eta^2 sigma_s^2 (1 - (sigma_s alpha_t / (alpha_s sigma_t))^2), at most sigma_s^2.

    Args:
        steps: Number of steps, one call of the denoiser each.
        eta: How much noise is added, not negative: 0 is deterministic, 1 is DDPM.
        timestep_spacing: The timestep spacing; None: `UniformSpacing`.

    References:
        Song et al., 2021, eq. 12 and 16, arXiv:2010.02502, written for any alpha_t and sigma_t.
    """

    def __init__(self, steps: int = 25, *, eta: float = 0.0, timestep_spacing: TimestepSpacing | None = None) -> None:
        super().__init__(steps, timestep_spacing)
        check("sampler.eta", eta, NOT_NEGATIVE)
        self.eta = eta
        self.draws = eta > 0

    def step(self, x: Tensor, here: NoiseLevel, there: NoiseLevel, trajectory: Trajectory) -> Tensor:
        """Make one step; see `Sampler.step`."""
        clean = trajectory.estimate(x, here).clean
        ratio = there.sigma * here.alpha / (there.alpha * here.sigma)
        fresh = min(self.eta * (1.0 - ratio**2) ** 0.5, 1.0) * there.sigma
        kept = (there.sigma**2 - fresh**2) ** 0.5 / here.sigma
        x = kept * x + (there.alpha - kept * here.alpha) * clean
        return x + fresh * trajectory.draw() if fresh else x
