"""Inpainting: a part of an image is made anew."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ldm.batch import Fields, Size
from ldm.generation.completion import CompletionStart, fills_holes
from ldm.generation.images import InitImages
from ldm.generation.mode.base import PromptMode
from ldm.generation.prompts import Prompt
from ldm.generation.request import SampleRequest, given_fields, numbered
from ldm.generation.start import InpaintStart
from ldm.model import LatentDiffusion, Start
from ldm.options.rule import COUNT, Whole, check


class Inpaint(PromptMode):
    """Makes what is masked of images anew.

    A model that was trained to do it reads image and mask; of any other, the known part is held while it is sampled.

    Args:
        prompts: The prompts.
        init: An image file, or a folder of them; each prompt changes each image.
        mask: An image of the same size, white where something new shall be; the rest stays as it is.
        border: Width in pixels of the border around the mask over which new and old are blended.
        num_resample: Number of times that each step is made, by a model that does not read masks; more fits new and old
            together better.
        size: Height and width of the images in pixels, one number for squares; None: of each image, its own.
    """

    def __init__(
        self,
        prompts: Sequence[Prompt],
        init: str | None,
        mask: str | None,
        *,
        border: int = 4,
        num_resample: int = 1,
        size: int | Sequence[int] | None = None,
    ) -> None:
        super().__init__(prompts, size, gives=("image", "mask"))
        check("border", border, Whole(0))
        check("num_resample", num_resample, COUNT)
        self.border = border
        self.num_resample = num_resample
        self.images = InitImages(init, self.size, mode=self.name)
        if mask is None:
            raise ValueError("mode=inpaint needs mask=FILE")
        self.mask = mask
        self._checked: set[tuple[str | None, Size]] = set()

    @property
    def name(self) -> str:
        """Return "inpaint"."""
        return "inpaint"

    def requests(self, n: int, seed: int) -> list[SampleRequest]:
        """See `Mode.requests`."""
        self.images.check(self.mask)
        return numbered(self.prompts, n, seed, inits=self.images.files)

    def size_of(self, request: SampleRequest, model: LatentDiffusion) -> Size:
        """See `PromptMode.size_of`."""
        if fills_holes(model.conditioner) and self.num_resample > 1:
            raise ValueError(
                f"num_resample={self.num_resample} would change nothing: this model was trained to fill masks, and no step is "
                "made again; leave it out"
            )
        size = self.images.size(str(request.init), model.size_multiple)
        if (request.init, size) not in self._checked:
            self._checked.add((request.init, size))
            # what is cut out must be masked in part, too
            self.images.read_masked([replace(request, size=size)], self.mask)
        return size

    def fields(self, requests: Sequence[SampleRequest], model: LatentDiffusion) -> Fields:
        """Return also the images and masks, for a model that reads what is left of images; see `PromptMode.fields`."""
        given = given_fields(requests, resized=self.size is not None)
        if not fills_holes(model.conditioner):
            return given
        image, mask = self.images.read_masked(requests, self.mask)
        return {**given, "image": image, "mask": mask}

    def start(self, requests: Sequence[SampleRequest], model: LatentDiffusion) -> Start:
        """Return the start of a model that reads masks itself, or of one that does not; see `PromptMode.start`."""
        image, mask = self.images.read_masked(requests, self.mask)
        if fills_holes(model.conditioner):
            return CompletionStart(image, mask, border=self.border)
        return InpaintStart(image, mask, border=self.border, num_resample=self.num_resample)

    def settings(self) -> dict[str, Any]:
        """See `Mode.settings`."""
        return {"mask": self.mask, "border": self.border, "num_resample": self.num_resample}
