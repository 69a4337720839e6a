"""Images that are changed by prompts."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ldm.batch import Fields, Size
from ldm.config import is_rank_zero
from ldm.files.text import clean_text
from ldm.generation.images import InitImages
from ldm.generation.mode.base import PromptMode
from ldm.generation.prompts import Prompt
from ldm.generation.request import SampleRequest, given_fields, numbered
from ldm.generation.start import ImageStart, InvertedStart
from ldm.model import LatentDiffusion, Start
from ldm.options.rule import FLAG, FRACTION, check

log = logging.getLogger(__name__)


class Img2Img(PromptMode):
    """Changes images by prompts.

    Args:
        prompts: The prompts.
        init: An image file, or a folder of them; each prompt changes each image.
        strength: Fraction of the sampler's steps that are made from it, in [0, 1]; more changes more.
        compvis: Follow the paper's code, which rounds the number of steps down and adds noise of one level more.
        init_prompt: The text that says what the images show; then their noise is found by inverting DDIM, which keeps more of
            them. None: it is drawn.
        size: Height and width of the images in pixels, one number for squares; None: of each image, its own.
    """

    def __init__(
        self,
        prompts: Sequence[Prompt],
        init: str | None,
        *,
        strength: float = 0.6,
        compvis: bool = False,
        init_prompt: str | None = None,
        size: int | Sequence[int] | None = None,
    ) -> None:
        super().__init__(prompts, size)
        check("strength", strength, FRACTION)
        check("compvis", compvis, FLAG)
        self.strength = strength
        self.compvis = compvis
        self.init_prompt = None if init_prompt is None else clean_text(init_prompt)
        self.images = InitImages(init, self.size, mode=self.name)

    @property
    def name(self) -> str:
        """Return "img2img"."""
        return "img2img"

    def requests(self, n: int, seed: int) -> list[SampleRequest]:
        """See `Mode.requests`; one image of each prompt, with a warning, where the seeds would make no difference."""
        self.images.check()
        if n > 1 and (why := self._all_alike) is not None:
            if is_rank_zero():
                log.warning(
                    "n=%d images of a prompt would all be the same, since %s: one is made of each image", n, why
                )
            n = 1
        made = numbered(self.prompts, n, seed, inits=self.images.files)
        return [replace(request, init_prompt=self.init_prompt) for request in made]

    @property
    def _all_alike(self) -> str | None:
        """The reason why images do not depend on their seeds; None where they do."""
        if self.init_prompt is not None:
            return "with init_prompt their noise is found in the image that they begin with, and not drawn"
        if self.strength == 0 and not self.compvis:
            return "with strength=0 no noise is added to the image that they begin with"
        return None

    def size_of(self, request: SampleRequest, model: LatentDiffusion) -> Size:
        """See `PromptMode.size_of`."""
        return self.images.size(str(request.init), model.size_multiple)

    def fields(self, requests: Sequence[SampleRequest], model: LatentDiffusion) -> Fields:
        """See `PromptMode.fields`."""
        return given_fields(requests, resized=self.size is not None)

    def start(self, requests: Sequence[SampleRequest], model: LatentDiffusion) -> Start:
        """See `PromptMode.start`."""
        image = self.images.read(requests)
        if self.init_prompt is None:
            return ImageStart(image, self.strength, compvis=self.compvis)
        return InvertedStart(image, self.init_prompt, self.strength)

    def settings(self) -> dict[str, Any]:
        """See `Mode.settings`."""
        return {"strength": self.strength, **({"compvis": True} if self.compvis else {})}
