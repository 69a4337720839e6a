"""Pseudo linear multistep (PLMS): the sampler of the text-to-image images in the LDM paper."""

from __future__ import annotations

from torch import Tensor

from ldm.sampler.base import Sampler
from ldm.sampler.ode import ode_form
from ldm.sampler.timestep_spacing import TimestepSpacing
from ldm.sampler.trajectory import NoiseLevel, Trajectory

ADAMS_BASHFORTH = ((1.0,), (3 / 2, -1 / 2), (23 / 12, -16 / 12, 5 / 12), (55 / 24, -59 / 24, 37 / 24, -9 / 24))
"""Coefficients of the Adams-Bashforth methods of orders 1 to 4, the newest slope first."""


class PLMS(Sampler):
    """PLMS: steps along a mean of the last four slopes, weighted as by Adams and Bashforth. It is of second order.

    The mean is (55 d_i - 59 d_(i-1) + 37 d_(i-2) - 9 d_(i-3)) / 24, in the coordinates of `OdeForm`; a step along it
    is Euler's. The first step is Heun's, with two calls of the denoiser. The last one, to clean latents, is DDIM's,
    because the mean is wrong for a long last step. The timestep spacing should be uniform, as the weights assume.

    Args:
        steps: Number of steps, one call of the denoiser each, two for the first step.
        timestep_spacing: The timestep spacing; None: `UniformSpacing`.

    References:
        Liu et al., 2022, eq. 12 and 13, arXiv:2202.09778.
    """

    def __init__(self, steps: int = 25, *, timestep_spacing: TimestepSpacing | None = None) -> None:
        super().__init__(steps, timestep_spacing)

    def step(self, x: Tensor, here: NoiseLevel, there: NoiseLevel, trajectory: Trajectory) -> Tensor:
        """Make one step; see `Sampler.step`."""
        clean = trajectory.estimate(x, here).clean
        if not there.sigma:
            return clean
        line = ode_form(trajectory)
        slopes = [
            line.slope(point.x, point.estimate.clean, point.noise_level) for point in reversed(trajectory.history)
        ]
        weights = ADAMS_BASHFORTH[len(slopes) - 1]
        slope = sum((weight * part for weight, part in zip(weights, slopes, strict=True)), x.new_zeros(()))
        if len(slopes) == 1:
            after = line.go(x, slope, here, there)
            slope = 0.5 * (slope + line.slope(after, trajectory.peek(after, there).clean, there))
        return line.go(x, slope, here, there)
