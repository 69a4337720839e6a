"""Images that are larger versions of others."""

from __future__ import annotations

from collections.abc import Sequence
from math import lcm
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ldm.batch import Fields, Size, tensor_field
from ldm.conditioner.base import Conditioner
from ldm.conditioner.low_resolution import LowResolutionConditioner
from ldm.generation.inputs import input_rows, picture_size
from ldm.generation.mode.base import PromptMode
from ldm.generation.prompts import Prompt
from ldm.generation.request import SampleRequest, given_fields, numbered
from ldm.guidance.context import GuidanceContext
from ldm.model import Beginning, LatentDiffusion, Start
from ldm.sampler.base import Sampler
from ldm.sampler.noise import SeededNoise

OPTION = "low_resolution"


class SuperResolution(PromptMode):
    """Enlarges images by the factor that the model was trained for, whatever their size.

    An image that the model cannot divide goes on by reflection, downwards and to the right, and what is made of that is
    cut away at the end. A model is convolutional: images larger than those of its training are made as they are.

    Args:
        prompts: The prompts; each goes with each image.
        low_resolution: An image file, or a folder of them; None: the prompts come from a file that names one for each.
        size: None: how large an image becomes follows from the image and the model.

    Raises:
        ValueError: Where there is no image of low resolution, one cannot be read, or a size is given.

    References:
        Rombach et al., 2022, sections 4.3.2 and 4.4, arXiv:2112.10752.
    """

    def __init__(
        self, prompts: Sequence[Prompt], low_resolution: str | None, *, size: int | Sequence[int] | None = None
    ) -> None:
        rows = input_rows({OPTION: low_resolution})
        told = [prompt._replace(inputs={**row, **prompt.inputs}) for row in rows for prompt in prompts]
        super().__init__(told, size, any_size=True)
        if self.size is not None:
            raise ValueError(
                "size would change nothing with mode=super_resolution: images become as many times as large as the model "
                "was trained for; leave it out"
            )
        if any(OPTION not in prompt.inputs for prompt in told):
            raise ValueError("mode=super_resolution needs low_resolution=FILE")

    @property
    def name(self) -> str:
        """Return "super_resolution"."""
        return "super_resolution"

    def requests(self, n: int, seed: int) -> list[SampleRequest]:
        """See `Mode.requests`."""
        return numbered(self.prompts, n, seed)

    def size_of(self, request: SampleRequest, model: LatentDiffusion) -> Size:
        """Return the size of the enlarged image; see `PromptMode.size_of`."""
        height, width = picture_size(request.inputs[OPTION])
        factor = _factor(model.conditioner)
        return Size(height * factor, width * factor)

    def fields(self, requests: Sequence[SampleRequest], model: LatentDiffusion) -> Fields:
        """See `PromptMode.fields`."""
        fields = given_fields(requests, resized=False)
        padded, factor = _padded_size(requests, model), _factor(model.conditioner)
        small = tensor_field(fields, OPTION)
        return {**fields, OPTION: reflected(small, Size(*(side // factor for side in padded)))}

    def start(self, requests: Sequence[SampleRequest], model: LatentDiffusion) -> CutStart:
        """See `PromptMode.start`."""
        (wanted,) = {request.size for request in requests}
        assert wanted is not None
        return CutStart(_padded_size(requests, model), wanted)

    def settings(self) -> dict[str, Any]:
        """See `Mode.settings`."""
        return {}


class CutStart(Start):
    """Begins with noise, for images that are larger than those that are wanted, and cuts them at the end.

    Args:
        size: Size of the images that are sampled.
        wanted: Size of their upper left part that remains.
    """

    def __init__(self, size: Size, wanted: Size) -> None:
        self.sampled = size
        self.wanted = wanted

    @property
    def size(self) -> Size:
        """See `Start.size`."""
        return self.sampled

    def each(self, count: int) -> CutStart:
        """See `Start.each`."""
        return self

    def rows(self, chunk: slice) -> CutStart:
        """See `Start.rows`."""
        return self

    def begin(self, model: LatentDiffusion, given: GuidanceContext, noise: SeededNoise, sampler: Sampler) -> Beginning:
        """Change nothing; see `Start.begin`."""
        return Beginning(given, noise)

    def finish(self, images: Tensor) -> Tensor:
        """Return the upper left part of the images; see `Start.finish`."""
        return images[..., : self.wanted.height, : self.wanted.width]


def reflected(images: Tensor, size: Size) -> Tensor:
    """Return images that go on by reflection at their lower and right edges, as often as it takes.

    Args:
        images: `(B, C, H, W)`.
        size: Height and width of the result, at least those of the images.

    Returns:
        Images `(B, C, *size)`.
    """
    rows, columns = (
        torch.from_numpy(np.pad(np.arange(there), (0, wanted - there), mode="reflect"))
        for there, wanted in zip(images.shape[-2:], size, strict=True)
    )
    return images[..., rows, :][..., columns]


def _padded_size(requests: Sequence[SampleRequest], model: LatentDiffusion) -> Size:
    """Return the least size, not below that of the images, which the model and the factor can divide."""
    size = requests[0].size
    assert size is not None
    multiple = lcm(model.size_multiple, _factor(model.conditioner))
    return Size(*(-(-side // multiple) * multiple for side in size))


def _factor(conditioner: Conditioner) -> int:
    """Return by how much a model enlarges.

    Raises:
        ValueError: Where it was not trained to.
    """
    found = {part.factor for part in conditioner.modules() if isinstance(part, LowResolutionConditioner)}
    if len(found) != 1:
        raise ValueError(
            f"mode=super_resolution enlarges by the factor of a LowResolutionConditioner, and this model has "
            f"{len(found) or 'none'}; give a model that was trained with conditioner=low_resolution"
        )
    return found.pop()
