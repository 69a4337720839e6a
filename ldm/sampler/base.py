"""The base class of samplers: a timestep spacing and a step."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from ldm.diffusion.schedule import Schedule
from ldm.options.rule import COUNT, FRACTION, check
from ldm.sampler.noise import SeededNoise
from ldm.sampler.timestep_spacing import TimestepSpacing, UniformSpacing
from ldm.sampler.trajectory import Denoise, NoiseLevel, Trajectory


class StartPoint(NamedTuple):
    """The start of a trajectory, and how often its steps are repeated.

    Attributes:
        init: Clean latents, `(B, C, h, w)`, to which noise is added up to the noise level of the first step that is
            made (img2img); None: start from pure noise.
        strength: Fraction of the steps that are made, in [0, 1]: the last ones. 0 gives `init` itself (Meng et al.,
            2022, algorithm 1, arXiv:2108.01073).
        num_resample: How many times each step is made, with new noise added in between (RePaint's resampling), so that the
            known and the new part of an image fit together (Lugmayr et al., 2022, algorithm 1, arXiv:2201.09865).
        compvis: Whether the paper's code is followed: the fraction of the steps is rounded down, and `init` gets the noise of one
            level more than that of the first step that is made.
        start: x_t, `(B, C, h, w)`, at the noise level of the first step that is made, as `invert` returns it; None: it
            is drawn.
    """

    init: Tensor | None = None
    strength: float = 1.0
    num_resample: int = 1
    start: Tensor | None = None
    compvis: bool = False

    def check(self) -> None:
        """Raise ValueError if an option is out of its range, or an image to start from is missing."""
        check("strength", self.strength, FRACTION)
        check("num_resample", self.num_resample, COUNT)
        if self.init is None and self.start is None and self.strength < 1:
            raise ValueError(f"strength={self.strength} needs an image to begin with; give init=FILE")

    def made_of(self, steps: int) -> int:
        """Return the number of last steps to make."""
        return int(steps * self.strength) if self.compvis else made_steps(steps, self.strength)

    def noised_of(self, steps: int) -> int:
        """Return the number of steps whose first one has the noise level up to which noise is added.

        Raises:
            ValueError: If there is no step before the first one that is made.
        """
        made = self.made_of(steps)
        if self.compvis and made == steps:
            raise ValueError(
                "compvis=true needs a strength below 1, since the paper's code starts one noise level earlier"
            )
        return made + 1 if self.compvis else made


class Sampler(ABC):
    """A sampler, which goes from noise to clean latents along a sequence of timesteps.

    Args:
        steps: Number of steps, at least 1. Each step calls the denoiser once, unless the sampler says otherwise.
        timestep_spacing: The timestep spacing; None: `UniformSpacing`.

    Attributes:
        draws: Whether the steps add noise (a stochastic sampler).

    Raises:
        ValueError: If an option is out of its range.
    """

    draws = False

    def __init__(self, steps: int, timestep_spacing: TimestepSpacing | None = None) -> None:
        check("sampler.steps", steps, COUNT)
        self.steps = steps
        self.timestep_spacing = timestep_spacing or UniformSpacing()

    @abstractmethod
    def step(self, x: Tensor, here: NoiseLevel, there: NoiseLevel, trajectory: Trajectory) -> Tensor:
        """Make one step.

        Args:
            x: x_t at the noise level `here`, `(B, C, h, w)`.
            here: Noise level at which the step starts.
            there: Lower noise level at which it ends.
            trajectory: The trajectory, which gives estimates, noise and the history.

        Returns:
            x_s at the noise level `there`, `(B, C, h, w)`.
        """

    @torch.no_grad()
    def sample(
        self,
        denoise: Denoise,
        schedule: Schedule,
        noise: SeededNoise,
        shape: Sequence[int],
        device: torch.device | str = "cpu",
        start_point: StartPoint | None = None,
    ) -> Tensor:
        """Return clean latents, one for each seed of the noise.

        Args:
            denoise: The denoiser, with condition and guidance inside.
            schedule: The noise schedule of the denoiser.
            noise: One random generator per image.
            shape: Shape of one latent, `(C, h, w)`.
            device: Device of the latents.
            start_point: Where to start, and how many times to make each step; None: from pure noise, each step once.

        Returns:
            Clean latents, `(B, C, h, w)`.

        Raises:
            ValueError: If an option of `start_point` is out of its range, or there are fewer different timesteps than steps.
        """
        start_point = start_point or StartPoint()
        start_point.check()
        trajectory = Trajectory(denoise, schedule, noise, shape, device)
        every = trajectory.lead(self.timestep_spacing.times(self.steps, schedule))
        noise_levels = every[-1 - start_point.made_of(self.steps) :]
        first = every[-1 - start_point.noised_of(self.steps)]
        x = trajectory.draw() if start_point.start is None else start_point.start
        if start_point.init is not None:
            x = first.alpha * start_point.init + first.sigma * x
        elif start_point.start is None:
            x = math.hypot(first.alpha, first.sigma) * x  # the standard deviation of x_t for data of unit variance
        for here, there in pairwise(noise_levels):
            for repeat in range(start_point.num_resample):
                if repeat:
                    trajectory.history.clear()
                    x = _back(x, there, here, trajectory)
                x = self.step(x, here, there, trajectory)
        return x


def made_steps(steps: int, strength: float) -> int:
    """Return the number of last steps to make: the fraction `strength` of all steps, at least one if it is above 0."""
    return max(round(steps * strength), 1 if strength > 0 else 0)


def _back(x: Tensor, here: NoiseLevel, there: NoiseLevel, trajectory: Trajectory) -> Tensor:
    """Add noise to x_s at the noise level `here` to get x_t at the higher one `there`, by the forward process."""
    kept = there.alpha / here.alpha
    added: float = max(there.sigma**2 - (kept * here.sigma) ** 2, 0.0) ** 0.5
    return kept * x + added * trajectory.draw()
