"""Euler's method, deterministic and ancestral."""

from __future__ import annotations

from torch import Tensor

from ldm.options.rule import FRACTION, check
from ldm.sampler.base import Sampler
from ldm.sampler.churn import Churn
from ldm.sampler.ode import ode_form
from ldm.sampler.timestep_spacing import TimestepSpacing
from ldm.sampler.trajectory import NoiseLevel, Trajectory


class Euler(Sampler):
    """Euler's method: first-order steps along the slope of the probability flow ODE. Without churn it equals DDIM.

    X_s = X_t + (tau_s - tau_t) d_t in the coordinates of `OdeForm`.

    Args:
        steps: Number of steps, one call of the denoiser each.
        timestep_spacing: The timestep spacing; None: `UniformSpacing`.
        churn: Noise that is added before each step; None: no noise.

    References:
        Karras et al., 2022, algorithm 2 without its second-order correction, arXiv:2206.00364.
    """

    def __init__(
        self, steps: int = 25, *, timestep_spacing: TimestepSpacing | None = None, churn: Churn | None = None
    ) -> None:
        super().__init__(steps, timestep_spacing)
        self.churn = churn or Churn()
        self.draws = self.churn.amount > 0

    def step(self, x: Tensor, here: NoiseLevel, there: NoiseLevel, trajectory: Trajectory) -> Tensor:
        """Make one step; see `Sampler.step`."""
        x, here = self.churn.apply(x, here, self.steps, trajectory)
        line = ode_form(trajectory)
        return line.go(x, line.slope(x, trajectory.estimate(x, here).clean, here), here, there)


class EulerAncestral(Sampler):
    """Ancestral Euler: a step to a lower noise level than wanted, then noise up to it. With eta = 1 it equals DDPM.

    With noise levels tau = sigma_t / alpha_t it is X_s = X_t + (down - tau_t) (X_t - x) / tau_t + up z, where
    up = eta tau_s sqrt(1 - (tau_s / tau_t)^2) and down = sqrt(tau_s^2 - up^2).

    Args:
        steps: Number of steps, one call of the denoiser each.
        eta: Fraction of the noise that a DDPM step adds, in [0, 1].
        timestep_spacing: The timestep spacing; None: `UniformSpacing`.

    References:
        Song et al., 2021, section 4.1, arXiv:2010.02502, in the noise levels of Karras et al., 2022, arXiv:2206.00364.
    """

    def __init__(self, steps: int = 50, *, eta: float = 1.0, timestep_spacing: TimestepSpacing | None = None) -> None:
        super().__init__(steps, timestep_spacing)
        check("sampler.eta", eta, FRACTION)
        self.eta = eta
        self.draws = eta > 0

    def step(self, x: Tensor, here: NoiseLevel, there: NoiseLevel, trajectory: Trajectory) -> Tensor:
        """Make one step; see `Sampler.step`."""
        clean = trajectory.estimate(x, here).clean
        added = self.eta * there.edm_sigma * (1.0 - (there.edm_sigma / here.edm_sigma) ** 2) ** 0.5
        down = (there.edm_sigma**2 - added**2) ** 0.5
        noise = (x - here.alpha * clean) / here.sigma
        x = there.alpha * (clean + down * noise)
        return x + there.alpha * added * trajectory.draw() if added else x
