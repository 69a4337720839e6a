"""The context of guidance: the model, the conditions and prompts of a batch, and the other end of an interpolation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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
    """The other end of an interpolation: image i goes a share of the way to prompts[i], seeds[i] and row i of the fields.

    Attributes:
        prompts: The other prompt of each image, `(B,)`.
        seeds: The other seed of each image, `(B,)`.
        fractions: How far to go for each image, `(B,)`, in [0, 1]: 0 is this end, 1 the other.
        fields: The fields that differ there, captions apart.
    """

    prompts: Sequence[str]
    seeds: Sequence[int]
    fractions: Sequence[float]
    fields: Mapping[str, Tensor | list[Any]] = {}

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
        wrong = {name: len(values) for name, values in self.fields.items() if len(values) != count}
        if wrong:
            raise ValueError(f"fields at the other end have one value for each of {count} images; got {wrong}")
        return Interpolation(prompts, as_seeds(self.seeds, count), fractions, self.fields)

    def rows(self, chunk: slice) -> Interpolation:
        """Return the other end for a part of the images."""
        fields: Fields = {name: values[chunk] for name, values in self.fields.items()}
        return Interpolation(self.prompts[chunk], self.seeds[chunk], self.fractions[chunk], fields)


class GuidanceContext(NamedTuple):
    """The context of guidance: everything that guidance may use for one batch.

    Attributes:
        denoiser: The denoiser, `(x_t, t, condition)` -> estimate.
        condition: The condition of the prompts.
        unconditional: The condition of the empty prompt or of the negative prompt.
        prompts: The prompts of `condition`, `(B,)`.
        autoencoder: The autoencoder to whose latents all of this belongs.
        interpolation: The other end of an interpolation; None: there is no interpolation.
        fields: The fields of the images; None: only the prompts are known.
        negatives: The negative prompts, `(B,)`, "" where there is none; empty: no image has one.
    """

    denoiser: Denoiser
    condition: Condition
    unconditional: Condition
    prompts: Sequence[str]
    autoencoder: Latents
    interpolation: Interpolation | None = None
    fields: Fields | None = None
    negatives: Sequence[str] = ()

    @property
    def known_fields(self) -> Fields:
        """Return the fields, of which the captions are the prompts."""
        return {**(self.fields or {}), "caption": list(self.prompts)}

    @property
    def ends(self) -> list[Fields]:
        """Return the known fields, and those at the other end of an interpolation where there is one."""
        if (there := self.interpolation) is None:
            return [self.known_fields]
        return [self.known_fields, {**self.known_fields, **there.fields, "caption": list(there.prompts)}]

    def log_likelihood(self, of: Callable[[Fields], Tensor]) -> Tensor:
        """Return the log-likelihood of the fields; between two ends, interpolate it as the conditions are.

        Args:
            of: A function that returns the log-likelihood of fields, `(B,)`, of which the captions are the prompts.

        Returns:
            The log-likelihoods, `(B,)`.
        """
        here, *other = map(of, self.ends)
        if self.interpolation is None:
            return here
        (there,) = other
        fractions = torch.tensor(self.interpolation.fractions, dtype=here.dtype)
        return torch.lerp(here, there, fractions.to(here.device, non_blocking=True))


def read(conditioner: Conditioner, fields: Fields, interpolation: Interpolation | None) -> Condition:
    """Return the condition of fields, interpolated with that of the other end where there is one.

    Args:
        conditioner: Makes a condition from fields.
        fields: The fields of the batch.
        interpolation: The other end of the interpolation; None: there is no interpolation.

    Returns:
        The condition of the batch.

    Raises:
        ValueError: Where a field has a value that the conditioner does not allow.
    """
    conditioner.check(fields)
    condition: Condition = conditioner(fields)
    if interpolation is None or condition.is_empty:
        return condition
    there = conditioner.with_captions({**fields, **interpolation.fields}, interpolation.prompts)
    conditioner.check(there)
    return condition.lerp(conditioner(there), interpolation.fractions)


def read_unconditional(conditioner: Conditioner, fields: Fields, negatives: Sequence[str]) -> Condition:
    """Return the condition from which guidance leads away, for each image: of its negative prompt, or of nothing.

    A condition that is never dropped in training, like the map beside a latent, is part of it, too.

    Args:
        conditioner: Makes a condition from fields.
        fields: The fields of the batch.
        negatives: The negative prompts, `(B,)`, "" where there is none; empty: no image has one.

    Raises:
        ValueError: Where there is a negative prompt for a conditioner that reads no captions.
    """
    nothing = conditioner.null(fields)
    if not any(negatives):
        return nothing
    if "caption" not in conditioner.inputs:
        raise ValueError(
            f"negative is a text, but this model reads {', '.join(conditioner.inputs)} and no caption; leave it out"
        )
    negative: Condition = conditioner(conditioner.with_captions(fields, negatives))
    (device, *_) = (part.device for part in negative if part is not None)
    return nothing.where(torch.tensor([bool(text) for text in negatives], device=device), negative)
