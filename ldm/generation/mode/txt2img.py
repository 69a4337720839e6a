"""Images of prompts, labels, layouts, maps and pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ldm.batch import Fields, Size
from ldm.generation.inputs import input_size
from ldm.generation.mode.base import PromptMode
from ldm.generation.prompts import Prompt
from ldm.generation.request import SampleRequest, given_fields, numbered
from ldm.model import LatentDiffusion, NoiseStart


class Txt2Img(PromptMode):
    """Makes images from what the model is conditioned on: prompts and other inputs.

    Args:
        prompts: The prompts.
        size: Height and width of the images in pixels, one number for squares; None: as large as the maps
            that they are made of, where there are some, else as in training.
    """

    def __init__(self, prompts: Sequence[Prompt], *, size: int | Sequence[int] | None = None) -> None:
        super().__init__(prompts, size)

    @property
    def name(self) -> str:
        """Return "txt2img"."""
        return "txt2img"

    def requests(self, n: int, seed: int) -> list[SampleRequest]:
        """See `Mode.requests`."""
        return numbered(self.prompts, n, seed)

    def size_of(self, request: SampleRequest, model: LatentDiffusion) -> Size:
        """See `PromptMode.size_of`."""
        return self.size or input_size(request.inputs, model.size_multiple) or model.size

    def fields(self, requests: Sequence[SampleRequest], model: LatentDiffusion) -> Fields:
        """See `PromptMode.fields`."""
        return given_fields(requests, resized=self.size is not None)

    def start(self, requests: Sequence[SampleRequest], model: LatentDiffusion) -> NoiseStart:
        """See `PromptMode.start`."""
        return NoiseStart()

    def settings(self) -> dict[str, Any]:
        """See `Mode.settings`."""
        return {}
