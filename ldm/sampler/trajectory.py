"""The trajectory of a sampler: its noise levels, its history, and the denoiser and noise that it calls."""

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
from ldm.sampler.noise import SeededNoise

Denoise = Callable[[Tensor, Tensor], Estimate]
"""A denoiser as samplers call it, with condition and guidance inside: x_t `(B, C, h, w)` and t `(B,)` -> estimate."""

REMEMBERED = 4
"""Number of estimates that the history keeps."""


class NoiseLevel(NamedTuple):
    """A timestep with its noise level: t, alpha_t and sigma_t.

    Attributes:
        t: The timestep, in [0, 1].
        alpha: Factor of the signal.
        sigma: Standard deviation of the noise.
    """

    t: float
    alpha: float
    sigma: float

    @property
    def edm_sigma(self) -> float:
        """The noise level sigma / alpha of EDM; infinite for pure noise."""
        return self.sigma / self.alpha if self.alpha else math.inf

    @property
    def lambda_(self) -> float:
        """The lambda of DPM-Solver, log(alpha / sigma); minus infinity for pure noise, infinity for clean latents."""
        if not self.alpha or not self.sigma:
            return -math.inf if not self.alpha else math.inf
        return math.log(self.alpha / self.sigma)


END = NoiseLevel(0.0, 1.0, 0.0)
"""The end of every trajectory: clean latents, even if the schedule has some noise left at t = 0."""


class HistoryEntry(NamedTuple):
    """An entry of the history.

    Attributes:
        noise_level: The noise level at which the denoiser was called.
        x: x_t, `(B, C, h, w)`.
        estimate: The output of the denoiser.
    """

    noise_level: NoiseLevel
    x: Tensor
    estimate: Estimate


class Trajectory:
    """One trajectory from noise to latents: the denoiser, the noise of each image and the estimates so far.

    Args:
        denoise: The denoiser, with condition and guidance inside.
        schedule: The noise schedule of the denoiser.
        noise: One random generator per image.
        shape: Shape of one latent, `(C, h, w)`.
        device: Device of the latents.

    Attributes:
        history: The history: the last calls of `estimate`, the newest last.
        steepness: The largest ratio of the noise levels before and after a step. Noise levels below 1, the standard
            deviation of the data, count as 1.
    """

    def __init__(
        self, denoise: Denoise, schedule: Schedule, noise: SeededNoise, shape: Sequence[int], device: torch.device | str
    ) -> None:
        self.schedule = schedule
        self.history: deque[HistoryEntry] = deque(maxlen=REMEMBERED)
        self.steepness = math.inf if schedule.zero_terminal_snr else 1.0
        self._denoise = denoise
        self._noise = noise
        self._shape = shape
        self._device = device

    def estimate(self, x: Tensor, noise_level: NoiseLevel) -> Estimate:
        """Call the denoiser for x, `(B, C, h, w)`, at a noise level, and add its estimate to the history."""
        estimate = self.peek(x, noise_level)
        self.history.append(HistoryEntry(noise_level, x, estimate))
        return estimate

    def peek(self, x: Tensor, noise_level: NoiseLevel) -> Estimate:
        """Call the denoiser as `estimate` does, but leave the history as it is."""
        return self._denoise(x, torch.full((len(x),), noise_level.t, device=x.device))

    def draw(self) -> Tensor:
        """Return fresh standard normal noise, `(B, C, h, w)`."""
        return self._noise.draw(self._shape, self._device)

    def noise_levels(self, times: Tensor) -> list[NoiseLevel]:
        """Return the noise levels at timesteps `(N,)`; if a timestep is 0, its noise level is `END`."""
        alpha, sigma = self.schedule.exact(times)
        rows = zip(times.tolist(), alpha.tolist(), sigma.tolist(), strict=True)
        return [NoiseLevel(*row) if row[0] else END for row in rows]

    def lead(self, times: Tensor) -> list[NoiseLevel]:
        """Return the noise levels at the timesteps `(N,)` of the whole trajectory, N > 1, and set `steepness`."""
        noise_levels = self.noise_levels(times)
        self.steepness = max(
            max(here.edm_sigma, 1.0) / max(there.edm_sigma, 1.0) for here, there in pairwise(noise_levels)
        )
        return noise_levels
