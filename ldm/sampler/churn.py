"""EDM's churn: noise that is added before a step, so that the step also corrects errors of the steps before it."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ldm.options.rule import NOT_NEGATIVE, Real, check
from ldm.sampler.trajectory import NoiseLevel, Trajectory


class Churn:
    """Stochastic churn: before each step, noise is added, so that the noise level sigma_t / alpha_t grows by a factor.

    The factor is 1 + min(S_churn / steps, sqrt(2) - 1). It applies to noise levels between S_tmin and S_tmax.

    Args:
        amount: S_churn, not negative: about the sum of the growth over all steps. 0: no churn, sampling is
            deterministic given the first noise.
        low: S_tmin, the lowest noise level with churn.
        high: S_tmax, the highest noise level with churn; may be infinite.
        noise: S_noise, standard deviation of the noise that is added; a little above 1 against lost detail.

    Raises:
        ValueError: If an option is out of its range.

    References:
        Karras et al., 2022, algorithm 2, arXiv:2206.00364.
    """

    def __init__(self, amount: float = 0.0, *, low: float = 0.05, high: float = 50.0, noise: float = 1.003) -> None:
        for name, value in (("amount", amount), ("low", low), ("noise", noise)):
            check(f"sampler.churn.{name}", value, NOT_NEGATIVE)
        if high != math.inf:
            check("sampler.churn.high", high, Real(low))
        self.amount = amount
        self.low = low
        self.high = high
        self.noise = noise

    def apply(
        self, x: Tensor, noise_level: NoiseLevel, steps: int, trajectory: Trajectory
    ) -> tuple[Tensor, NoiseLevel]:
        """Add noise to x, but not above the highest noise level of the schedule.

        Args:
            x: x_t, `(B, C, h, w)`.
            noise_level: Its noise level.
            steps: Number of steps of the sampler.
            trajectory: The trajectory, which gives the noise.

        Returns:
            x_t at the new noise level, `(B, C, h, w)`, and that noise level.
        """
        if not self.amount or not noise_level.alpha or not self.low <= noise_level.edm_sigma <= self.high:
            return x, noise_level
        level = noise_level.edm_sigma * (1.0 + min(self.amount / steps, math.sqrt(2.0) - 1.0))
        t = trajectory.schedule.time(torch.tensor([-2.0 * math.log(level)], dtype=torch.float64))
        (after,) = trajectory.noise_levels(t)
        added = max(after.edm_sigma**2 - noise_level.edm_sigma**2, 0.0) ** 0.5 * self.noise
        return after.alpha * (x / noise_level.alpha + added * trajectory.draw()), after
