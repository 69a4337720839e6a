"""Heun's method."""

from __future__ import annotations

from torch import Tensor

from ldm.sampler.base import Sampler
from ldm.sampler.churn import Churn
from ldm.sampler.ode import ode_form
from ldm.sampler.timestep_spacing import TimestepSpacing
from ldm.sampler.trajectory import NoiseLevel, Trajectory


class Heun(Sampler):
    """Heun's method: second-order steps along the mean of the slopes at both ends.

    X_s = X_t + (tau_s - tau_t) (d_t + d_s) / 2 in the coordinates of `OdeForm`, where d_s is the slope at the end of
    Euler's step.

    Args:
        steps: Number of steps, two calls of the denoiser each, one for the last step.
        timestep_spacing: The timestep spacing; None: `UniformSpacing`.
        churn: Noise that is added before each step; None: no noise.

    References:
        Karras et al., 2022, algorithms 1 and 2, arXiv:2206.00364.
    """

    def __init__(
        self, steps: int = 13, *, timestep_spacing: TimestepSpacing | None = None, churn: Churn | None = None
    ) -> None:
        super().__init__(steps, timestep_spacing)
        self.churn = churn or Churn()
        self.draws = self.churn.amount > 0

    def step(self, x: Tensor, here: NoiseLevel, there: NoiseLevel, trajectory: Trajectory) -> Tensor:
        """Make one step; see `Sampler.step`."""
        x, here = self.churn.apply(x, here, self.steps, trajectory)
        clean = trajectory.estimate(x, here).clean
        if not there.sigma:
            return clean
        line = ode_form(trajectory)
        slope = line.slope(x, clean, here)
        after = line.go(x, slope, here, there)
        other = line.slope(after, trajectory.peek(after, there).clean, there)
        return line.go(x, 0.5 * (slope + other), here, there)
