"""The context of guidance: the model, the conditions and prompts of a batch, and the other end of an interpolation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from ldm.batch import Condition, Fields
from ldm.conditioner.base import Conditioner
from ldm.diffusion.denoiser import Denoiser
from ldm.files.text import clean_prompts
from ldm.options.rule import FRACTION, check
from ldm.sampler.noise import as_seeds


class Latents(Protocol):
    """An autoencoder as guidance needs it."""

    def image(self, latent: Tensor) -> Tensor:
        """Decode latents, `(B, C, h, w)`, to images, `(B, 3, H, W)`; differentiable."""

    def same_latents(self, other: Any) -> bool:
        """Return whether another autoencoder gives the same latents."""


class Interpolation(NamedTuple):
    """The other end of an interpolation: image i goes a share of the way to prompts[i] and seeds[i].

    Attributes:
        prompts: The other prompt of each image, `(B,)`.
        seeds: The other seed of each image, `(B,)`.
        fractions: How far to go for each image, `(B,)`, in [0, 1]: 0 is this end, 1 the other.
    """

    prompts: Sequence[str]
    seeds: Sequence[int]
    fractions: Sequence[float]

    def each(self, count: int) -> Interpolation:
        """Return this end with a clean prompt, a seed and a share for each of `count` images.

        Args:
            count: Number of images.

        Returns:
            The other end of the interpolation, checked.

        Raises:
            ValueError: If there are more or fewer of them than images, or one of them is not valid.
        """
        prompts, fractions = clean_prompts(self.prompts), [float(fraction) for fraction in self.fractions]
        if not len(prompts) == len(fractions) == count:
            raise ValueError(
                f"the other end of an interpolation has a prompt, a seed and a share for each of {count} images; got "
                f"{len(prompts)} prompts and {len(fractions)} shares"
            )
        for fraction in fractions:
            check("fractions", fraction, FRACTION)
        return Interpolation(prompts, as_seeds(self.seeds, count), fractions)

    def rows(self, chunk: slice) -> Interpolation:
        """Return the other end for a part of the images."""
        return Interpolation(self.prompts[chunk], self.seeds[chunk], self.fractions[chunk])


class GuidanceContext(NamedTuple):
    """The context of guidance: everything that guidance may use for one batch.

    Attributes:
        denoiser: The denoiser, `(x_t, t, condition)` -> estimate.
        condition: The condition of the prompts.
        unconditional: The condition of the empty prompt or of the negative prompt.
        prompts: The prompts of `condition`, `(B,)`.
        autoencoder: The autoencoder to whose latents all of this belongs.
        interpolation: The other end of an interpolation between prompts; None: there is no interpolation.
        fields: The fields of the images; None: only the prompts are known.
    """

    denoiser: Denoiser
    condition: Condition
    unconditional: Condition
    prompts: Sequence[str]
    autoencoder: Latents
    interpolation: Interpolation | None = None
    fields: Fields | None = None

    @property
    def known_fields(self) -> Fields:
        """Return the fields, of which the captions are the prompts."""
        return {**(self.fields or {}), "caption": list(self.prompts)}

    def log_likelihood(self, of: Callable[[Sequence[str]], Tensor]) -> Tensor:
        """Return the log-likelihood of the prompts; between two prompts, interpolate it as the conditions are.

        Args:
            of: A function that returns the log-likelihood of prompts, `(B,)`.

        Returns:
            The log-likelihoods, `(B,)`.
        """
        here = of(self.prompts)
        if self.interpolation is None:
            return here
        return torch.lerp(here, of(self.interpolation.prompts), here.new_tensor(self.interpolation.fractions))


def read(conditioner: Conditioner, fields: Fields, interpolation: Interpolation | None) -> Condition:
    """Return the condition of fields, interpolated with that of other captions where there are some.

    Args:
        conditioner: Makes a condition from fields.
        fields: The fields of the batch.
        interpolation: The other end of the interpolation; None: there is no interpolation.

    Returns:
        The condition of the batch.

    Raises:
        ValueError: Where a field has a value that the conditioner cannot tell.
    """
    conditioner.check(fields)
    condition: Condition = conditioner(fields)
    if interpolation is None or condition.is_empty:
        return condition
    other: Condition = conditioner(conditioner.with_captions(fields, interpolation.prompts))
    (device, *_) = (part.device for part in other if part is not None)
    return condition.lerp(other, torch.tensor(interpolation.fractions, device=device))
