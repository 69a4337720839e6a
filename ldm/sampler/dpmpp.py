"""DPM-Solver++: exponential integrators of the clean estimate."""

from __future__ import annotations

from torch import Tensor

from ldm.sampler.base import Sampler
from ldm.sampler.timestep_spacing import TimestepSpacing
from ldm.sampler.trajectory import NoiseLevel, Trajectory


class DPMPP2M(Sampler):
    """DPM-Solver++(2M): second-order multistep.

    x_s = sigma_s / sigma_t x_t + alpha_s (1 - exp(-h)) D with D = x_i + h / (2 h_before) (x_i - x_(i-1)). Here x_i is
    the clean estimate at the start of the step and x_(i-1) the one before it; D extrapolates them as a straight line in
    lambda = log(alpha_t / sigma_t); h and h_before are the lengths of this step and of the last one in lambda. The
    first step, and the last one to clean latents, are DDIM's.

    Args:
        steps: Number of steps, one call of the denoiser each.
        timestep_spacing: The timestep spacing; None: `UniformSpacing`.

    References:
        Lu et al., 2022, algorithm 2, arXiv:2211.01095.
    """

    def __init__(self, steps: int = 25, *, timestep_spacing: TimestepSpacing | None = None) -> None:
        super().__init__(steps, timestep_spacing)

    def step(self, x: Tensor, here: NoiseLevel, there: NoiseLevel, trajectory: Trajectory) -> Tensor:
        """Make one step; see `Sampler.step`."""
        trajectory.estimate(x, here)
        kept = there.sigma / here.sigma
        return kept * x + (there.alpha - kept * here.alpha) * _extrapolated(trajectory, there)


class DPMPP2MSDE(Sampler):
    """SDE-DPM-Solver++(2M): `DPMPP2M` for the reverse SDE, so each step adds noise.

    x_s = sigma_s / sigma_t exp(-h) x_t + alpha_s (1 - exp(-2h)) D + sigma_s sqrt(1 - exp(-2h)) z with fresh noise z.

    Args:
        steps: Number of steps, one call of the denoiser each.
        timestep_spacing: The timestep spacing; None: `UniformSpacing`.

    References:
        Lu et al., 2022, eq. 19, arXiv:2211.01095.
    """

    draws = True

    def __init__(self, steps: int = 25, *, timestep_spacing: TimestepSpacing | None = None) -> None:
        super().__init__(steps, timestep_spacing)

    def step(self, x: Tensor, here: NoiseLevel, there: NoiseLevel, trajectory: Trajectory) -> Tensor:
        """Make one step; see `Sampler.step`."""
        trajectory.estimate(x, here)
        ratio = there.sigma * here.alpha / (there.alpha * here.sigma)  # exp(-h)
        gone = 1.0 - ratio**2
        x = ratio * there.sigma / here.sigma * x + there.alpha * gone * _extrapolated(trajectory, there)
        return x + there.sigma * gone**0.5 * trajectory.draw() if there.sigma else x


def _extrapolated(trajectory: Trajectory, there: NoiseLevel) -> Tensor:
    """Return the clean estimate in the middle of the step, extrapolated from the last two, `(B, C, h, w)`."""
    *before, now = trajectory.history
    if not before or not there.sigma or not before[-1].noise_level.alpha:
        return now.estimate.clean
    step = there.lambda_ - now.noise_level.lambda_
    last = now.noise_level.lambda_ - before[-1].noise_level.lambda_
    change = now.estimate.clean - before[-1].estimate.clean
    return now.estimate.clean + 0.5 * step / last * change
