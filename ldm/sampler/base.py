"""What every sampler is: a time grid and a step."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from ldm.diffusion.schedule import Schedule
from ldm.options import COUNT, FRACTION, check
from ldm.sampler.grid import Grid, Uniform
from ldm.sampler.noise import Noise
from ldm.sampler.path import Denoise, Knot, Path


class Way(NamedTuple):
    """From where, and how, a sampler goes.

    init      clean latents `(B, C, h, w)` to begin with, noised to where the steps begin; None: pure noise
    strength  share of the steps that are made, the last ones, in [0, 1]; 0 gives `init`.
              Paper: Meng et al., 2022, algorithm 1, arXiv:2108.01073
    visits    times that each step is made, going back by new noise in between, so that what is known of an image and what
              is made of it come to fit. Paper: Lugmayr et al., 2022, algorithm 1, arXiv:2201.09865
    start     x_t `(B, C, h, w)` where the steps begin, as `invert` finds it; None: drawn
    """

    init: Tensor | None = None
    strength: float = 1.0
    visits: int = 1
    start: Tensor | None = None

    def check(self) -> None:
        """Raise ValueError where it leads nowhere."""
        check("strength", self.strength, FRACTION)
        check("visits", self.visits, COUNT)
        if self.init is None and self.start is None and self.strength < 1:
            raise ValueError(f"strength={self.strength} needs an image to begin with; give init=FILE")


class Sampler(ABC):
    """Goes from noise to clean latents along a grid of times.

    steps  number of steps; each calls the denoiser once, where a sampler does not say otherwise
    grid   of times; None: Uniform
    draws  whether its steps add noise
    """

    draws = False

    def __init__(self, steps: int, grid: Grid | None = None) -> None:
        check("sampler.steps", steps, COUNT)
        self.steps = steps
        self.grid = grid or Uniform()

    @abstractmethod
    def step(self, x: Tensor, here: Knot, there: Knot, path: Path) -> Tensor:
        """From x_t `(B, C, h, w)` at the knot `here` to x_s at the earlier knot `there`."""

    @torch.no_grad()
    def sample(
        self,
        denoise: Denoise,
        schedule: Schedule,
        noise: Noise,
        shape: Sequence[int],
        device: torch.device | str = "cpu",
        way: Way | None = None,
    ) -> Tensor:
        """Clean latents `(B, *shape)`, one for each of the noise's seeds; way None: from pure noise, each step once."""
        way = way or Way()
        way.check()
        path = Path(denoise, schedule, noise, shape, device)
        knots = path.lead(self.grid.times(self.steps, schedule))[-1 - made_steps(self.steps, way.strength) :]
        first = knots[0]
        x = path.draw() if way.start is None else way.start
        if way.init is not None:
            x = first.alpha * way.init + first.sigma * x
        elif way.start is None:
            x = math.hypot(first.alpha, first.sigma) * x  # the deviation of x_t for data of unit variance
        for here, there in pairwise(knots):
            for visit in range(way.visits):
                if visit:
                    path.past.clear()
                    x = _back(x, there, here, path)
                x = self.step(x, here, there, path)
        return x


def made_steps(steps: int, strength: float) -> int:
    """How many of the last steps are made: a share of them, but at least one where anything shall change."""
    return max(round(steps * strength), 1 if strength > 0 else 0)


def _back(x: Tensor, here: Knot, there: Knot, path: Path) -> Tensor:
    """From x_s at `here` to x_t at a later time, by the forward process."""
    kept = there.alpha / here.alpha
    added = there.sigma**2 - (kept * here.sigma) ** 2
    return kept * x + max(added, 0.0) ** 0.5 * path.draw()
