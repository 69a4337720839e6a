"""Images on the way from one prompt, seed, class, map or picture to others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ldm.batch import Fields, Size
from ldm.files.text import clean_text
from ldm.generation.folder import image_name
from ldm.generation.inputs import input_rows, input_size
from ldm.generation.mode.base import PromptMode
from ldm.generation.prompts import Prompt
from ldm.generation.request import SampleRequest, check_count, given_fields
from ldm.generation.start import InterpolationStart
from ldm.model import LatentDiffusion
from ldm.options.rule import SEED, Optional, check


class Interpolate(PromptMode):
    """Makes images on the way from one prompt and seed to others, or from its other inputs to others, ends included.

    Args:
        prompts: One prompt.
        to_prompt: The prompt at the other end; None: the same.
        to_seed: The seed at the other end; None: the same.
        to_inputs: Option of `INPUTS` -> its value at the other end; None, and those that are None: the same.
        size: Height and width of the images in pixels, one number for squares; None: as in training.
    """

    def __init__(
        self,
        prompts: Sequence[Prompt],
        *,
        to_prompt: str | None = None,
        to_seed: int | None = None,
        to_inputs: Mapping[str, Any] | None = None,
        size: int | Sequence[int] | None = None,
    ) -> None:
        super().__init__(prompts, size)
        check("to_seed", to_seed, Optional(SEED, "the same"))
        if len(prompts) != 1:
            raise ValueError(f"an interpolation goes from one prompt to one other; got {len(prompts)}")
        ends = input_rows(to_inputs or {})
        if len(ends) != 1:
            raise ValueError(f"an interpolation goes to one other end; got {len(ends)}")
        if to_prompt is None and to_seed is None and not ends[0]:
            others = "".join(f" or to_{name}=..." for name in prompts[0].inputs)
            raise ValueError(f'an interpolation needs another end: give to_prompt="..." or to_seed=NUMBER{others}')
        self.to_prompt = None if to_prompt is None else clean_text(to_prompt)
        self.to_seed = to_seed
        self.to_inputs = ends[0]

    @property
    def name(self) -> str:
        """Return "interpolate"."""
        return "interpolate"

    def requests(self, n: int, seed: int) -> list[SampleRequest]:
        """See `Mode.requests`."""
        if n < 2:
            raise ValueError(f"an interpolation has n=2 or more images, its ends among them; got n={n}")
        check_count(n, n)
        ((prompt, own, negative, inputs),) = self.prompts
        first = seed if own is None else own
        end, last = (
            (prompt if self.to_prompt is None else self.to_prompt),
            (first if self.to_seed is None else self.to_seed),
        )
        return [
            SampleRequest(
                image_name(index),
                prompt,
                first,
                negative,
                to_prompt=end,
                to_seed=last,
                fraction=index / (n - 1),
                inputs=inputs,
                to_inputs=self.to_inputs,
            )
            for index in range(n)
        ]

    def size_of(self, request: SampleRequest, model: LatentDiffusion) -> Size:
        """See `PromptMode.size_of`."""
        if self.size is not None:
            return self.size
        here, there = (
            input_size(inputs, model.size_multiple)
            for inputs in (request.inputs, {**request.inputs, **request.to_inputs})
        )
        if here != there:
            raise ValueError(
                f"one end is of size {here}, the other of {there}; give size=[height,width], or maps of one size"
            )
        return here or model.size

    def fields(self, requests: Sequence[SampleRequest], model: LatentDiffusion) -> Fields:
        """See `PromptMode.fields`."""
        return given_fields(requests, resized=self.size is not None)

    def start(self, requests: Sequence[SampleRequest], model: LatentDiffusion) -> InterpolationStart:
        """See `PromptMode.start`."""
        ends = [replace(request, inputs=request.to_inputs) for request in requests]
        fields = given_fields(ends, resized=self.size is not None)
        del fields["caption"]
        return InterpolationStart(
            [request.to_prompt or "" for request in requests],
            [request.to_seed or 0 for request in requests],
            [request.fraction or 0.0 for request in requests],
            fields=fields,
        )

    def settings(self) -> dict[str, Any]:
        """See `Mode.settings`."""
        return {}
