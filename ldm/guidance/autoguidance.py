"""Autoguidance: guidance by a worse model of the same latents."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from ldm.batch import Fields
from ldm.conditioner.base import Conditioner, Reader
from ldm.diffusion.denoiser import Denoiser, Estimate
from ldm.guidance.base import Guidance, NestedGuidance
from ldm.guidance.context import GuidanceContext, Latents, read
from ldm.sampler.trajectory import Denoise


class WeakModel(Protocol):
    """The parts of a LatentDiffusion that guidance by it needs."""

    autoencoder: Latents
    conditioner: Conditioner
    denoiser: Denoiser

    def to(self, device: torch.device) -> object:
        """Move the model to a device."""


class Autoguidance(NestedGuidance):
    """Autoguidance: from the estimate w of a worse model through the estimate b of the better one, w + scale * (b - w).

    Unlike classifier-free guidance, it makes images better without making them less varied.

    Args:
        weak: The worse model, which was trained for a shorter time or is smaller. It has the latents and the noise
            schedule of the better one.
        scale: Guidance scale; 1 is no guidance.
        guidance: The guidance of the better model; None: `NoGuidance`.

    References:
        Karras et al., 2024, eq. 3, arXiv:2406.02507.
    """

    def __init__(self, weak: WeakModel, *, scale: float = 1.5, guidance: Guidance | None = None) -> None:
        super().__init__(scale, guidance)
        self.weak = weak
        self._joined: tuple[object, ...] = ()

    @property
    def readers(self) -> Sequence[Reader]:
        """Return the conditioner of the worse model, and the readers of the guidance of the better one."""
        return (self.weak.conditioner, *self.guidance.readers)

    def wrap(self, given: GuidanceContext) -> Denoise:
        """Return the guided denoiser for one batch; see `Guidance.wrap`.

        Raises:
            ValueError: If the worse model has other latents or another noise schedule.
        """
        self._join(given)
        better, worse = self.guidance.wrap(given), self.weak.denoiser
        condition = read(self.weak.conditioner, self._fields(given), given.interpolation)

        def denoise(x_t: Tensor, t: Tensor) -> Estimate:
            """Return the guided estimate."""
            good, bad = better(x_t, t), worse(x_t, t, condition)
            return good._replace(clean=bad.clean + self.scale * (good.clean - bad.clean))

        return denoise

    def _fields(self, given: GuidanceContext) -> Fields:
        """Return the fields that the worse model reads: captions, since cached text is that of the better model's encoder.

        Raises:
            ValueError: If there are no captions, but cached text.
        """
        fields, conditioner = given.fields or {}, self.weak.conditioner
        cached = [name for name in conditioner.caption_caches if name in fields]
        if cached and "caption" not in fields:
            raise ValueError(
                f"the weak model reads captions, but of the images only {', '.join(cached)} of the model's own text encoder is "
                "given; give the field caption, too"
            )
        return conditioner.with_captions(given.known_fields, given.prompts)

    def _join(self, given: GuidanceContext) -> None:
        """Move the worse model to the device of the better one, and check that both fit together.

        Raises:
            ValueError: If the worse model has other latents or another noise schedule.
        """
        if self._joined == (given.autoencoder, given.denoiser.schedule):
            return  # the comparison reads all weights: once is enough
        self.weak.to(next(given.denoiser.parameters()).device)
        if not self.weak.autoencoder.same_latents(given.autoencoder):
            raise ValueError(
                "the weak model belongs to another autoencoder, or to another shift and scale of its latents; give one that was "
                "trained with autoencoder.ckpt= that of the model, or an earlier checkpoint of its run"
            )
        if (t := given.denoiser.schedule.first_mismatch(self.weak.denoiser.schedule)) is not None:
            raise ValueError(
                f"at t = {t:.1f} the weak model was trained with another amount of noise; give one with the schedule of the model"
            )
        self._joined = (given.autoencoder, given.denoiser.schedule)
