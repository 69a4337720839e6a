"""Starts of sampling: how a model that was trained on captions alone changes images, fills holes and interpolates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ldm.autoencoder.derived import DERIVED, with_derived_fields
from ldm.batch import Fields, Size, tensor_field
from ldm.files.text import clean_prompts
from ldm.guidance.base import NoGuidance
from ldm.guidance.context import GuidanceContext, Interpolation, read, read_unconditional
from ldm.model import Beginning, LatentDiffusion, Start
from ldm.options.rule import COUNT, FLAG, FRACTION, Whole, check
from ldm.sampler.base import Sampler, StartPoint
from ldm.sampler.inpainting import feather_mask, fill_masked, replace_known
from ldm.sampler.inversion import invert
from ldm.sampler.noise import SeededNoise


class ImageStart(Start):
    """Begins with images, to which noise is added: image-to-image.

        image = read_image("photo.png", 256)[None]
        model.sample(prompts="a blue heart", start=ImageStart(image, strength=0.6))

    Meng et al., 2022, algorithm 1, arXiv:2108.01073.

    Args:
        image: `(N, 3, H, W)` in [-1, 1], one for each image to be made; a single one is for all.
        strength: Fraction of the sampler's steps that are made from it, in [0, 1]; more changes more.
        compvis: Follow the paper's code, which rounds the number of steps down and adds noise of one level more.
    """

    def __init__(self, image: Tensor, strength: float = 1.0, *, compvis: bool = False) -> None:
        check("strength", strength, FRACTION)
        check("compvis", compvis, FLAG)
        self.image = image
        self.strength = strength
        self.compvis = compvis

    @property
    def size(self) -> Size:
        """See `Start.size`."""
        return Size(*self.image.shape[-2:])

    def each(self, count: int) -> ImageStart:
        """See `Start.each`."""
        return ImageStart(_each(self.image, count), self.strength, compvis=self.compvis)

    def rows(self, chunk: slice) -> ImageStart:
        """See `Start.rows`."""
        return ImageStart(self.image[chunk], self.strength, compvis=self.compvis)

    def begin(self, model: LatentDiffusion, given: GuidanceContext, noise: SeededNoise, sampler: Sampler) -> Beginning:
        """Add noise to the latents of the images; see `Start.begin`."""
        return Beginning(given, noise, StartPoint(_encode(model, self.image), self.strength, compvis=self.compvis))

    def finish(self, images: Tensor) -> Tensor:
        """Return the images as they are; see `Start.finish`."""
        return images


class InvertedStart(Start):
    """Begins with the noise that DDIM makes images of, so that they keep what the new prompts do not change.

    It works best without guidance. Song et al., 2021, section 4.3, arXiv:2010.02502.

    Args:
        image: `(N, 3, H, W)` in [-1, 1], one for each image to be made; a single one is for all.
        prompts: The texts that say what the images show, `(N,)`, or one for all.
        strength: Fraction of the sampler's steps that are inverted and made again, in [0, 1].
    """

    def __init__(self, image: Tensor, prompts: str | Sequence[str], strength: float = 1.0) -> None:
        check("strength", strength, FRACTION)
        self.image = image
        self.prompts = prompts
        self.strength = strength

    @property
    def size(self) -> Size:
        """See `Start.size`."""
        return Size(*self.image.shape[-2:])

    def each(self, count: int) -> InvertedStart:
        """See `Start.each`."""
        shown = clean_prompts(self.prompts) * (count if isinstance(self.prompts, str) else 1)
        if len(shown) != count:
            raise ValueError(f"one text for each of {count} images to begin with is needed; got {len(shown)}")
        return InvertedStart(_each(self.image, count), shown, self.strength)

    def rows(self, chunk: slice) -> InvertedStart:
        """See `Start.rows`."""
        return InvertedStart(self.image[chunk], self.prompts[chunk], self.strength)

    def begin(self, model: LatentDiffusion, given: GuidanceContext, noise: SeededNoise, sampler: Sampler) -> Beginning:
        """Invert DDIM from the latents of the images; see `Start.begin`."""
        if sampler.draws:
            raise ValueError(
                f"what init_prompt describes is made of its own noise, to which {type(sampler).__name__} would add other; "
                "choose a sampler that adds none, like sampler=ddim"
            )
        fields = model.conditioner.with_captions(given.known_fields, self.prompts)
        shown = given._replace(prompts=self.prompts, fields=fields, condition=model.conditioner(fields))
        x_t = invert(
            NoGuidance().wrap(shown),
            model.denoiser.schedule,
            _encode(model, self.image),
            steps=sampler.steps,
            timestep_spacing=sampler.timestep_spacing,
            strength=self.strength,
        )
        return Beginning(given, noise, StartPoint(None, self.strength, start=x_t))

    def finish(self, images: Tensor) -> Tensor:
        """Return the images as they are; see `Start.finish`."""
        return images


class InpaintStart(Start):
    """Makes a part of images anew; the rest stays as it is, but for a border over which new and old are blended.

        model.sample(prompts="a blue heart", start=InpaintStart(image, mask))

    What was in the masked part plays no part in what is made. Lugmayr et al., 2022, arXiv:2201.09865.

    Args:
        image: `(N, 3, H, W)` in [-1, 1], one for each image to be made; a single one is for all.
        mask: 1 where something new shall be, 0 where the image stays, `(N, 1, H, W)`; a single one is for all.
        border: Width in pixels of the border around the mask.
        num_resample: Number of times that each step is made; more fits new and old together better.
    """

    def __init__(self, image: Tensor, mask: Tensor, *, border: int = 4, num_resample: int = 1) -> None:
        check("border", border, Whole(0))
        check("num_resample", num_resample, COUNT)
        self.image = image
        self.mask = mask
        self.border = border
        self.num_resample = num_resample

    @property
    def size(self) -> Size:
        """See `Start.size`."""
        return Size(*self.image.shape[-2:])

    def each(self, count: int) -> InpaintStart:
        """See `Start.each`."""
        return self._replaced(*each_masked(self.image, self.mask, count))

    def rows(self, chunk: slice) -> InpaintStart:
        """See `Start.rows`."""
        return self._replaced(self.image[chunk], self.mask[chunk])

    def begin(self, model: LatentDiffusion, given: GuidanceContext, noise: SeededNoise, sampler: Sampler) -> Beginning:
        """Hold the latents of what is not masked; see `Start.begin`."""
        known = _encode(model, fill_masked(self.image, self.mask))
        made = F.max_pool2d(self.mask.to(known.device), model.autoencoder.downsampling_factor)
        return Beginning(
            given,
            noise,
            StartPoint(known, num_resample=self.num_resample),
            partial(replace_known, known=known, made=made),
        )

    def finish(self, images: Tensor) -> Tensor:
        """Blend the images with those that they begin with, over the border; see `Start.finish`."""
        return blend_known(images, self.image, self.mask, self.border)

    def _replaced(self, image: Tensor, mask: Tensor) -> InpaintStart:
        return InpaintStart(image, mask, border=self.border, num_resample=self.num_resample)


class InterpolationStart(Start):
    """Makes images on the way from their own prompts and seeds to others.

        model.sample(prompts=["a heart"] * 3, seeds=[1] * 3, start=InterpolationStart(["a cat"] * 3, [1] * 3, [0, 0.5, 1]))

    Args:
        prompts: The prompts at the other end, `(N,)`.
        seeds: The seeds at the other end, `(N,)`.
        fractions: The fraction of the way that is gone, in [0, 1], `(N,)`.
        fields: The fields that differ at the other end, captions apart, each with N values.
    """

    def __init__(
        self,
        prompts: Sequence[str],
        seeds: int | Sequence[int],
        fractions: Sequence[float],
        *,
        fields: Mapping[str, Tensor | list[Any]] | None = None,
    ) -> None:
        self.end = Interpolation(prompts, seeds, fractions, fields or {})  # type: ignore[arg-type]

    @property
    def size(self) -> None:
        """See `Start.size`."""
        return None

    def each(self, count: int) -> InterpolationStart:
        """See `Start.each`."""
        prompts, seeds, fractions, fields = self.end.each(count)
        return InterpolationStart(prompts, seeds, fractions, fields=fields)

    def rows(self, chunk: slice) -> InterpolationStart:
        """See `Start.rows`."""
        prompts, seeds, fractions, fields = self.end.rows(chunk)
        return InterpolationStart(prompts, seeds, fractions, fields=fields)

    def begin(self, model: LatentDiffusion, given: GuidanceContext, noise: SeededNoise, sampler: Sampler) -> Beginning:
        """Mix the noise and the conditions of both ends; see `Start.begin`."""
        end = self._with_derived(model, given.known_fields)
        condition, unconditional = read(model.conditioner, given.known_fields, end), given.unconditional
        if end.fields and not unconditional.is_empty:
            fields = {**given.known_fields, **end.fields}
            there = read_unconditional(model.conditioner, fields, given.negatives)
            unconditional = unconditional.lerp(there, end.fractions)
        noise = noise.interpolation(end.seeds, end.fractions)
        return Beginning(given._replace(condition=condition, unconditional=unconditional, interpolation=end), noise)

    def finish(self, images: Tensor) -> Tensor:
        """Return the images as they are; see `Start.finish`."""
        return images

    def _with_derived(self, model: LatentDiffusion, fields: Fields) -> Interpolation:
        """Return the other end with the fields that the model derives from those that differ there."""
        names = [
            name
            for name, sources in DERIVED.items()
            if name in fields and not self.end.fields.keys().isdisjoint(sources)
        ]
        if not names:
            return self.end
        kept = {name: value for name, value in fields.items() if name not in names}
        size = tensor_field(fields, names[0]).shape[-2:]
        there = with_derived_fields({**kept, **self.end.fields}, names, model.autoencoder, size=size)
        return self.end._replace(fields={**self.end.fields, **{name: there[name] for name in names}})


def _each(image: Tensor, count: int) -> Tensor:
    """Return images `(count, 3, H, W)`, made of as many, or of one for all.

    Raises:
        ValueError: Where there are neither one nor `count` of them, or a value is not finite.
    """
    if image.ndim != 4 or image.shape[1] != 3 or len(image) not in (1, count):
        raise ValueError(f"images to begin with are (N, 3, H, W), one for each of {count} prompts; got {image.shape}")
    if not image.isfinite().all():
        raise ValueError("images to begin with are numbers in [-1, 1]; got some that are not finite")
    return image.expand(count, -1, -1, -1)


def each_masked(image: Tensor, mask: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return images `(count, 3, H, W)` and masks `(count, 1, H, W)`, made of as many, or of one for all.

    Raises:
        ValueError: Where there are neither one nor `count` of them, or they do not fit together.
    """
    image = _each(image, count)
    if mask.ndim != 4 or mask.shape[1:] != (1, *image.shape[-2:]) or len(mask) not in (1, count):
        height, width = image.shape[-2:]
        raise ValueError(f"masks are (N, 1, {height}, {width}), as the images; got {mask.shape}")
    return image, mask.to(image.device).expand(count, -1, -1, -1)


def blend_known(made: Tensor, known: Tensor, mask: Tensor, border: int) -> Tensor:
    """Return made images where they are masked and known ones elsewhere, blended over a border around the mask.

    Args:
        made: `(B, 3, H, W)`.
        known: `(B, 3, H, W)`.
        mask: `(B, 1, H, W)`, 0 or 1.
        border: Width of the border in pixels.

    Returns:
        Images `(B, 3, H, W)`, on the device of the made ones.
    """
    known, mask = known.to(made.device), mask.to(made.device)
    return torch.where(mask > 0, made, torch.lerp(known, made, feather_mask(mask, border)))


def _encode(model: LatentDiffusion, image: Tensor) -> Tensor:
    """Return the mean latents `(B, C, h, w)` of images `(B, 3, H, W)` in [-1, 1]."""
    autoencoder = model.autoencoder
    return autoencoder.to_latent(autoencoder.encode(image.to(autoencoder.shift.device)).mean)
