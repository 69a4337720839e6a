"""Noise added before a step, so that the step also corrects what those before it did wrong."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ldm.options import NOT_NEGATIVE, Real, check
from ldm.sampler.path import Knot, Path


class Churn:
    """Before each step the noise level sigma_t / alpha_t grows by a factor, at levels between two bounds.

    The factor is 1 + min(S_churn / steps, sqrt(2) - 1).

    amount  S_churn: the sum of the growth over all steps, about; 0: none, then sampling is deterministic given the first noise
    low     S_tmin: noise level from which on it is done
    high    S_tmax: noise level up to which it is done; may be infinite
    noise   S_noise: standard deviation of what is added, a little over 1 against lost detail

    Paper: Karras et al., 2022, algorithm 2, arXiv:2206.00364.
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

    def apply(self, x: Tensor, knot: Knot, steps: int, path: Path) -> tuple[Tensor, Knot]:
        """x and its knot with more noise; never more than the schedule has."""
        if not self.amount or not knot.alpha or not self.low <= knot.level <= self.high:
            return x, knot
        level = knot.level * (1.0 + min(self.amount / steps, math.sqrt(2.0) - 1.0))
        t = path.schedule.time(torch.tensor([-2.0 * math.log(level)], dtype=torch.float64))
        (after,) = path.knots(t)
        added = max(after.level**2 - knot.level**2, 0.0) ** 0.5 * self.noise
        return after.alpha * (x / knot.alpha + added * path.draw()), after
