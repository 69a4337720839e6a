"""What every sampler is: a time grid and a step."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from ldm.diffusion.schedule import Schedule
from ldm.sampler.noise import Noise

Denoise = Callable[[Tensor, Tensor], Tensor]
"""x_t `(B, C, h, w)` and t `(B,)` -> clean latent. Condition and guidance are already inside."""


class Sampler(ABC):
    """Goes from noise at t = 1 to a clean latent at t = 0 along a uniform time grid.

    steps  number of steps, each with one call of the denoiser
    """

    def __init__(self, steps: int) -> None:
        if steps < 1:
            raise ValueError(f"a sampler needs at least 1 step; got steps={steps}")
        self.steps = steps

    @abstractmethod
    def step(
        self, x_t: Tensor, clean: Tensor, t: Tensor, s: Tensor, schedule: Schedule, draw: Callable[[], Tensor]
    ) -> Tensor:
        """From x_t and its clean estimate, `(B, C, h, w)`, at time t to x_s at an earlier time s; both scalars.

        `draw()` gives fresh standard normal noise of the shape of x_t.
        """

    @torch.no_grad()
    def sample(
        self,
        denoise: Denoise,
        schedule: Schedule,
        noise: Noise,
        shape: Sequence[int],
        device: torch.device | str = "cpu",
    ) -> Tensor:
        """Clean latents `(B, *shape)`, one for each of the noise's seeds."""

        def draw() -> Tensor:
            return noise.draw(shape, device)

        x = draw()
        times = torch.linspace(1.0, 0.0, self.steps + 1, dtype=torch.float64).to(device)
        for t, s in pairwise(times):
            clean = denoise(x, t.float().expand(x.shape[0]))
            x = self.step(x, clean, t, s, schedule, draw)
        return x
