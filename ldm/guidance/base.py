"""The interface of every guidance, no guidance, and guidance on top of another guidance."""

from __future__ import annotations

from abc import ABC, abstractmethod

from ldm.guidance.context import Given
from ldm.options import Real, check
from ldm.sampler.path import Denoise

SCALE = Real(-1e3, 1e3)
"""What any scale can be; 1 to 10 are usual."""


class Guidance(ABC):
    """Turns a conditional denoiser into what a sampler calls."""

    @property
    def has_negative(self) -> bool:
        """Whether it leads away from the unconditional estimate."""
        return False

    @abstractmethod
    def wrap(self, given: Given) -> Denoise:
        """The guided denoiser of one batch."""


class Unguided(Guidance):
    """The conditional denoiser as it is."""

    def wrap(self, given: Given) -> Denoise:
        return lambda x_t, t: given.denoiser(x_t, t, given.condition)


class Over(Guidance, ABC):
    """Guidance over another guidance; `scale` says how strong.

    guidance  under it; None: none
    """

    def __init__(self, scale: float, guidance: Guidance | None) -> None:
        check("guidance.scale", scale, SCALE)
        self.scale = scale
        self.guidance = guidance or Unguided()

    @property
    def has_negative(self) -> bool:
        return self.guidance.has_negative
