"""Classifier-free guidance that fades."""

from __future__ import annotations

import torch
from torch import Tensor

from ldm.batch import Condition
from ldm.diffusion.denoiser import Estimate
from ldm.guidance.base import SCALE, Guidance
from ldm.guidance.context import GuidanceContext
from ldm.options.rule import check
from ldm.sampler.trajectory import Denoise


class Fading(Guidance):
    """Classifier-free guidance whose scale goes in a line from `scale` at noise, t = 1, to 1, no guidance, at t = 0.

    Args:
        scale: The guidance scale at t = 1.
    """

    def __init__(self, scale: float) -> None:
        check("guidance.scale", scale, SCALE)
        self.scale = scale

    @property
    def has_negative(self) -> bool:
        """True unless the scale is 1."""
        return self.scale != 1

    def wrap(self, given: GuidanceContext) -> Denoise:
        """Return the guided denoiser for one batch; see `Guidance.wrap`."""
        both = Condition.cat([given.condition, given.unconditional])

        def denoise(x_t: Tensor, t: Tensor) -> Estimate:
            clean, variance = given.denoiser(torch.cat([x_t, x_t]), torch.cat([t, t]), both)
            wanted, free = clean.chunk(2)
            scale = 1.0 + (self.scale - 1.0) * t[:, None, None, None]
            return Estimate(free + scale * (wanted - free), None if variance is None else variance.chunk(2)[0])

        return denoise
