"""Guidance: denoisers that wrap a denoiser."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from ldm.batch import Condition
from ldm.sampler.base import Denoise


class Guidance(ABC):
    """Turns a conditional denoiser into what a sampler calls."""

    @abstractmethod
    def wrap(self, denoiser: nn.Module, condition: Condition, unconditional: Condition) -> Denoise:
        """denoiser `(x_t, t, condition)` -> clean latent; both conditions for the whole batch."""


class Unguided(Guidance):
    """The conditional denoiser as it is."""

    def wrap(self, denoiser: nn.Module, condition: Condition, unconditional: Condition) -> Denoise:
        return lambda x_t, t: denoiser(x_t, t, condition)


class ClassifierFree(Guidance):
    """Away from the unconditional estimate, through the conditional one: u + scale * (c - u).

    scale 1 is no guidance, 0 ignores the condition. The estimates are clean latents; since these are affine in the
    predicted noise, with the same coefficients for both, this equals guiding the noise.

    Paper: Ho & Salimans, 2022, eq. 6, arXiv:2207.12598, with scale = 1 + w.
    """

    def __init__(self, scale: float = 2.0) -> None:
        self.scale = scale

    def wrap(self, denoiser: nn.Module, condition: Condition, unconditional: Condition) -> Denoise:
        if self.scale == 1:
            return Unguided().wrap(denoiser, condition, unconditional)
        both = Condition.cat([condition, unconditional])

        def denoise(x_t: Tensor, t: Tensor) -> Tensor:
            given, free = denoiser(torch.cat([x_t, x_t]), torch.cat([t, t]), both).chunk(2)
            return free + self.scale * (given - free)

        return denoise
