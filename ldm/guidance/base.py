"""The base classes of guidance, and no guidance."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence

from torch import nn

from ldm.autoencoder.derived import underlying_fields
from ldm.conditioner.base import Reader
from ldm.guidance.context import GuidanceContext
from ldm.options.rule import Real, check
from ldm.sampler.trajectory import Denoise

SCALE = Real(-1e3, 1e3)
"""Range of all guidance scales; 1 to 10 are usual."""


def fields_of(readers: Iterable[Reader]) -> tuple[str, ...]:
    """Return the names of the fields that samples must have for readers: a conditioner, and those of guidance."""
    return underlying_fields(name for reader in readers for name in reader.inputs)


class Guidance(ABC):
    """A kind of guidance, which turns a conditional denoiser into the denoiser that a sampler calls."""

    @property
    def has_negative(self) -> bool:
        """True if a negative prompt has an effect, because guidance leads away from its estimate."""
        return False

    @property
    def readers(self) -> Sequence[Reader]:
        """Return the parts that read fields of the images, in addition to the model's own conditioner."""
        return ()

    @property
    def networks(self) -> Sequence[nn.Module]:
        """Return the networks, beside the model's own, whose weights say what images come out."""
        return ()

    @abstractmethod
    def wrap(self, given: GuidanceContext) -> Denoise:
        """Return the guided denoiser for one batch.

        Args:
            given: The context: denoiser, conditions and prompts of the batch.

        Returns:
            A function of x_t `(B, C, h, w)` and t `(B,)` that returns the guided estimate.
        """


class NoGuidance(Guidance):
    """No guidance: the conditional denoiser as it is."""

    def wrap(self, given: GuidanceContext) -> Denoise:
        """Return the conditional denoiser; see `Guidance.wrap`."""
        return lambda x_t, t: given.denoiser(x_t, t, given.condition)


class NestedGuidance(Guidance, ABC):
    """A kind of guidance that works on top of another one.

    Args:
        scale: Strength of the guidance.
        guidance: The guidance on top of which it works; None: `NoGuidance`.

    Raises:
        ValueError: If the scale is out of its range.
    """

    def __init__(self, scale: float, guidance: Guidance | None) -> None:
        check("guidance.scale", scale, SCALE)
        self.scale = scale
        self.guidance = guidance or NoGuidance()

    @property
    def has_negative(self) -> bool:
        """True if a negative prompt has an effect on the guidance on top of which it works."""
        return self.guidance.has_negative

    @property
    def readers(self) -> Sequence[Reader]:
        """Return the readers of the guidance on top of which it works."""
        return self.guidance.readers

    @property
    def networks(self) -> Sequence[nn.Module]:
        """Return those of its own parts that are networks, and the networks of the guidance on top of which it works."""
        return (*(part for part in vars(self).values() if isinstance(part, nn.Module)), *self.guidance.networks)
