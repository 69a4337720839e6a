"""The base classes of modes: a mode has options, makes requests of them, and gives the generator of their images."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any, final

import torch
from torch import Tensor

from ldm.autoencoder.base import Autoencoder
from ldm.autoencoder.derived import underlying_fields
from ldm.autoencoder.tiles import Tiles
from ldm.batch import Fields, Size, as_size
from ldm.conditioner.base import Conditioner
from ldm.conditioner.in_pictures import in_pictures
from ldm.conditioner.text import cut_prompts
from ldm.config import is_rank_zero
from ldm.generation.prompts import Prompt
from ldm.generation.request import SampleRequest, check_given, check_numbers, idle_prompts, texts_of, with_class_numbers
from ldm.guidance.base import Guidance, fields_of
from ldm.model import LatentDiffusion, Start
from ldm.options.rule import SIZE, Optional, check
from ldm.sampler.base import Sampler

log = logging.getLogger(__name__)

MOST_WARNINGS = 10

FAR = 2
"""The ratio of a height or width to that of training, up or down, beyond which few models draw well."""

MAPS = frozenset({"segmentation", "depth", "low_resolution", "mask"})
"""Fields that say at each pixel what is there: a model that reads one works at sizes far from that of its training."""


class ModeParts(ABC):
    """The parts that a mode may ask for; each is loaded when it is asked for, and not before."""

    @abstractmethod
    def model(self) -> LatentDiffusion:
        """Return the model of the checkpoint, ready to sample."""

    @abstractmethod
    def autoencoder(self) -> Autoencoder:
        """Return the autoencoder of the checkpoint alone, ready to encode and decode."""

    @abstractmethod
    def sampler(self) -> Sampler:
        """Return the sampler."""

    @abstractmethod
    def guidance(self) -> Guidance:
        """Return the guidance."""

    @abstractmethod
    def tiles(self) -> Tiles | None:
        """Return the tiles in which images are decoded; None: each is decoded at once."""


class Generator(ABC):
    """Makes the images of requests."""

    @abstractmethod
    def prepare(self, requests: Sequence[SampleRequest]) -> list[SampleRequest]:
        """Return the requests with the sizes of their images, before the first is made.

        Raises:
            ValueError: Where an image cannot be made.
        """

    @abstractmethod
    def __call__(self, requests: Sequence[SampleRequest]) -> Tensor:
        """Return the images `(N, 3, H, W)` in [-1, 1] of prepared requests of one size, on the CPU.

        An image does not depend on the other requests.
        """

    @abstractmethod
    def condition_pictures(self, request: SampleRequest) -> Tensor:
        """Return the conditions of a prepared request that are pictures, one below the other.

        Returns:
            Pictures of the size of the image `(3, K * H, W)` in [-1, 1]; K is 0 where there are none.
        """


class Mode(ABC):
    """A way to make images.

    Its constructor has the mode's own options, checks them, and raises ValueError where one cannot be. `configs/mode/` names
    them, so that they can be given where the mode is chosen.
    """

    @property
    @abstractmethod
    def name(self) -> str:
        """Return the name by which it is chosen."""

    @abstractmethod
    def requests(self, n: int, seed: int) -> list[SampleRequest]:
        """Return the requests for all images; files that images begin with are read, so that mistakes are found early.

        Args:
            n: The number of images of each prompt, at least 1.
            seed: The seed of the first image.

        Raises:
            ValueError: Where that cannot be.
        """

    @abstractmethod
    def generator(self, parts: ModeParts) -> Generator:
        """Return the generator of the images, built of the parts that it asks for.

        Raises:
            ValueError: Where parts and options do not fit together.
        """

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """Return the options that are the same for all images, for the record; those that are None are left out."""


class PromptMode(Mode):
    """A mode whose images are made of prompts by a latent diffusion model.

    Args:
        prompts: The prompts.
        size: Height and width of the images in pixels, one number for squares; None: as the mode says.
        gives: Names of the fields that the mode itself gives, beside those of prompts and inputs.
        any_size: True if it makes images of sizes that the model cannot divide: its start samples larger ones, and cuts.
    """

    def __init__(
        self,
        prompts: Sequence[Prompt],
        size: int | Sequence[int] | None,
        *,
        gives: Sequence[str] = (),
        any_size: bool = False,
    ) -> None:
        self.prompts = prompts
        self.size = optional_size(size, "as in training, or as the image to begin with")
        self.gives = frozenset(gives)
        self.any_size = any_size

    @abstractmethod
    def size_of(self, request: SampleRequest, model: LatentDiffusion) -> Size:
        """Return the size of an image.

        Raises:
            ValueError: Where a file that it is made of does not go with that size.
        """

    @abstractmethod
    def fields(self, requests: Sequence[SampleRequest], model: LatentDiffusion) -> Fields:
        """Return the fields that the model reads for prepared requests of one size; see `LatentDiffusion.sample`."""

    @abstractmethod
    def start(self, requests: Sequence[SampleRequest], model: LatentDiffusion) -> Start:
        """Return the start of sampling for prepared requests of one size."""

    @final
    def generator(self, parts: ModeParts) -> Generator:
        """See `Mode.generator`."""
        sampler, guidance = parts.sampler(), parts.guidance()
        if any(prompt.negative for prompt in self.prompts) and not guidance.has_negative:
            raise ValueError(
                "negative= is what classifier-free guidance leads away from; with this guidance there is none: "
                "leave it out, or say guidance=classifier_free guidance.scale=2"
            )
        return PromptGenerator(self, parts.model(), sampler=sampler, guidance=guidance, tiles=parts.tiles())


class PromptGenerator(Generator):
    """Makes the images of a mode by a latent diffusion model.

    Args:
        mode: The mode, which gives the fields and the start of sampling.
        model: The model.
        sampler: The sampler.
        guidance: The guidance.
        tiles: The tiles in which images are decoded; None: each is decoded at once.

    Raises:
        ValueError: Where the autoencoder cannot divide the tiles.
    """

    def __init__(
        self,
        mode: PromptMode,
        model: LatentDiffusion,
        *,
        sampler: Sampler,
        guidance: Guidance,
        tiles: Tiles | None = None,
    ) -> None:
        if tiles is not None:
            tiles.check(model.autoencoder)
        self.mode = mode
        self.model = model
        self.sampler = sampler
        self.guidance = guidance
        self.tiles = tiles

    def prepare(self, requests: Sequence[SampleRequest]) -> list[SampleRequest]:
        """See `Generator.prepare`."""
        # First, as it fails where the model does not have the mode.
        sizes = [self.mode.size_of(request, self.model) for request in requests]
        readers = self.model.readers(self.guidance)
        for request in requests:
            check_given(request, fields_of(readers), self.mode.gives)
        if is_rank_zero() and (idle := idle_prompts(requests, fields_of(readers))) is not None:
            log.warning(idle)
        requests = [with_class_numbers(request, self.model.conditioner) for request in requests]
        check_numbers(requests, readers)
        if is_rank_zero():
            for cut in islice(self._cut(list(texts_of(requests))), MOST_WARNINGS):
                log.warning(cut)
        for size in () if self.mode.any_size else set(sizes):
            self.model.check_size(size)
        if is_rank_zero() and (warning := far_from_training(sizes, self.model)) is not None:
            log.warning(warning)
        return [replace(request, size=size) for request, size in zip(requests, sizes, strict=True)]

    def __call__(self, requests: Sequence[SampleRequest]) -> Tensor:
        """See `Generator.__call__`."""
        start = self.mode.start(requests, self.model)
        return self.model.sample(
            self.mode.fields(requests, self.model),
            seeds=[request.seed or 0 for request in requests],
            size=start.size or requests[0].size,
            negative=[request.negative or "" for request in requests],
            start=start,
            sampler=self.sampler,
            guidance=self.guidance,
            batch_size=len(requests),
            tiles=self.tiles,
        )

    def condition_pictures(self, request: SampleRequest) -> Tensor:
        """Return the pictures of the conditions, mixed between the two ends; see `Generator.condition_pictures`."""
        here = self._pictures(request)
        if not request.to_inputs:
            return here
        there = self._pictures(replace(request, inputs={**request.inputs, **request.to_inputs}))
        return torch.lerp(here, there, request.fraction or 0.0)

    def _pictures(self, request: SampleRequest) -> Tensor:
        assert request.size is not None
        size = self.mode.start([request], self.model).size or request.size
        pictures = in_pictures(self.mode.fields([request], self.model), 1, self.model.conditioner, size)
        # what goes beyond the image lies to the right and below
        parts = pictures[0].split(size.height, dim=1)
        return torch.cat([part[:, : request.size.height, : request.size.width] for part in parts], dim=1)

    def _cut(self, texts: Sequence[str]) -> Iterator[str]:
        """Yield a message for each text that is too long for the model or for a model that guides it."""
        yield from cut_prompts(self.model.conditioner, texts)
        for reader in self.guidance.readers:
            if isinstance(reader, Conditioner):
                yield from (f"of the model that guides: {warning}" for warning in cut_prompts(reader, texts))


def far_from_training(sizes: Iterable[Size], model: LatentDiffusion) -> str | None:
    """Return a warning where images are much larger or smaller than those that a model has seen; None where none is.

    Args:
        sizes: The sizes of the images.
        model: The model.
    """
    if MAPS & {*underlying_fields(model.conditioner.inputs)}:
        return None
    ratios = {size: max(max(a / b, b / a) for a, b in zip(size, model.size, strict=True)) for size in sizes}
    size = max(ratios, key=ratios.__getitem__)
    if ratios[size] < FAR:
        return None
    return (
        f"images of {size.height} x {size.width} pixels are asked of a model that was trained on {model.size.height} x "
        f"{model.size.width}, and so far from that size it may draw parts again and again, or nothing that can be recognised; "
        "to have this size, train on from this model, with init=CKPT "
        f"data.size=[{size.height},{size.width}]; size=[{model.size.height},{model.size.width}] makes images "
        "of the size that it knows"
    )


def optional_size(size: int | Sequence[int] | None, meaning: str) -> Size | None:
    """Return the size that an option gives; None where it gives none, which has a meaning.

    Raises:
        ValueError: Where it is neither one number nor height and width.
    """
    check("size", size, Optional(SIZE, meaning))
    return None if size is None else as_size(size)
