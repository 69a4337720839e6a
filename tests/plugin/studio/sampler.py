"""The midpoint method."""

from __future__ import annotations

import torch
from torch import Tensor

from ldm.sampler.base import Sampler
from ldm.sampler.ode import ode_form
from ldm.sampler.trajectory import NoiseLevel, Trajectory


class Midpoint(Sampler):
    """A second-order sampler: each step goes along the slope of the probability flow ODE in the middle of the step.

    Args:
        steps: Number of steps, two calls of the denoiser each.
        timestep_spacing: The timestep spacing; None: `UniformSpacing`.
    """

    def step(self, x: Tensor, here: NoiseLevel, there: NoiseLevel, trajectory: Trajectory) -> Tensor:
        """Make one step; see `Sampler.step`."""
        (middle,) = trajectory.noise_levels(torch.tensor([(here.t + there.t) / 2], dtype=torch.float64))
        line = ode_form(trajectory)
        half = line.go(x, line.slope(x, trajectory.estimate(x, here).clean, here), here, middle)
        return line.go(x, line.slope(half, trajectory.peek(half, middle).clean, middle), here, there)
