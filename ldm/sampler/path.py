"""Where a sampler is on its way, and what it can ask for there."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from ldm.diffusion.denoiser import Estimate
from ldm.diffusion.schedule import Schedule
from ldm.sampler.noise import Noise

Denoise = Callable[[Tensor, Tensor], Estimate]
"""x_t `(B, C, h, w)` and t `(B,)` -> estimate. Condition and guidance are already inside."""

REMEMBERED = 4


class Knot(NamedTuple):
    """A time, and how much signal and noise there is."""

    t: float
    alpha: float
    sigma: float

    @property
    def level(self) -> float:
        """sigma / alpha, the noise level of EDM; infinite for pure noise."""
        return self.sigma / self.alpha if self.alpha else math.inf

    @property
    def half_log_snr(self) -> float:
        """log(alpha / sigma), the lambda of DPM-Solver; infinite for pure noise and for clean latents."""
        if not self.alpha or not self.sigma:
            return -math.inf if not self.alpha else math.inf
        return math.log(self.alpha / self.sigma)


END = Knot(0.0, 1.0, 0.0)
"""Clean latents, whatever is left of noise at t = 0 of a schedule."""


class Point(NamedTuple):
    """What was known at a knot."""

    knot: Knot
    x: Tensor
    estimate: Estimate


class Path:
    """One way from noise to latents: the denoiser, the noise of each image, the estimates so far.

    denoise    at each time what the latents are when clean
    shape      of a latent, `(C, h, w)`
    device     of the latents
    past       the last points at which `estimate` was called, the newest last
    steepness  the largest ratio of the noise levels before and after a step; levels below 1, the deviation of the data,
               count as 1
    """

    def __init__(
        self, denoise: Denoise, schedule: Schedule, noise: Noise, shape: Sequence[int], device: torch.device | str
    ) -> None:
        self.schedule = schedule
        self.past: deque[Point] = deque(maxlen=REMEMBERED)
        self.steepness = math.inf if schedule.ends_in_noise else 1.0
        self._denoise = denoise
        self._noise = noise
        self._shape = shape
        self._device = device

    def estimate(self, x: Tensor, knot: Knot) -> Estimate:
        """What the denoiser says about x `(B, C, h, w)` at a knot; remembered."""
        estimate = self.peek(x, knot)
        self.past.append(Point(knot, x, estimate))
        return estimate

    def peek(self, x: Tensor, knot: Knot) -> Estimate:
        """As `estimate`, but not remembered."""
        return self._denoise(x, torch.full((len(x),), knot.t, device=x.device))

    def draw(self) -> Tensor:
        """Fresh standard normal noise, `(B, C, h, w)`."""
        return self._noise.draw(self._shape, self._device)

    def knots(self, times: Tensor) -> list[Knot]:
        """Knots at times `(N,)`, of which the last, if it is 0, is the end."""
        alpha, sigma = self.schedule.exact(times)
        rows = zip(times.tolist(), alpha.tolist(), sigma.tolist(), strict=True)
        return [Knot(*row) if row[0] else END for row in rows]

    def lead(self, times: Tensor) -> list[Knot]:
        """Knots at the times `(N,)` of the whole way, N > 1."""
        knots = self.knots(times)
        self.steepness = max(max(here.level, 1.0) / max(there.level, 1.0) for here, there in pairwise(knots))
        return knots
