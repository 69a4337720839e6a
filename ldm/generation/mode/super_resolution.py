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
from ldm.data.decode import Header, in_proportion
from ldm.generation.inputs import INPUTS, input_rows, picture_size
from ldm.generation.mode.base import PromptMode
from ldm.generation.prompts import Prompt
from ldm.generation.request import SampleRequest, given_fields, numbered
from ldm.guidance.context import GuidanceContext
from ldm.model import Beginning, LatentDiffusion, Start
from ldm.options.rule import FRACTION, check
from ldm.sampler.base import Sampler
from ldm.sampler.noise import SeededNoise

OPTION = "low_resolution"

ON_IMAGE = ("image", "segmentation", "depth")
"""Fields that lie on the image to be made, pixel on pixel."""


class SuperResolution(PromptMode):
    """Enlarges images by the factor that the model was trained for, whatever their size.

    An image that the model cannot divide goes on by reflection, downwards and to the right, and what is made of that is
    cut away at the end; so do the maps that the model reads beside it, which are of the same shape, in any resolution. A
    model is convolutional: images larger than those of its training are made as they are.

    Args:
        prompts: The prompts; each goes with each image.
        low_resolution: An image file, or a folder of them; None: the prompts come from a file that names one for each.
        noise_level: How much noise is added to the image of low resolution, in [0, 1], by a model that was trained with noise,
            up to its `conditioner.noise`; more hides more flaws, and details. The model is conditioned on the level.
        size: None: how large an image becomes follows from the image and the model.

    Raises:
        ValueError: Where there is no image of low resolution, one cannot be read, a noise level cannot be, or a size is given.

    References:
        Rombach et al., 2022, sections 4.3.2 and 4.4, arXiv:2112.10752; Ho et al., 2022, section 4.2, arXiv:2106.15282.
    """

    def __init__(
        self,
        prompts: Sequence[Prompt],
        low_resolution: str | None,
        *,
        noise_level: float = 0.0,
        size: int | Sequence[int] | None = None,
    ) -> None:
        check("noise_level", noise_level, FRACTION)
        rows = input_rows({OPTION: low_resolution})
        enlarged = [prompt._replace(inputs={**row, **prompt.inputs}) for row in rows for prompt in prompts]
        super().__init__(enlarged, size, any_size=True)
        self.noise_level = noise_level
        if self.size is not None:
            raise ValueError(
                "size would change nothing with mode=super_resolution: images become as many times as large as the model "
                "was trained for; leave it out"
            )
        if any(OPTION not in prompt.inputs for prompt in enlarged):
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
        part = _low_resolution(model.conditioner)
        self._check_noise(part)
        size = Size(*(side * part.factor for side in picture_size(request.inputs[OPTION])))
        for name, source in request.inputs.items():
            asked = INPUTS[name].size(source)
            if asked is not None and not in_proportion(Header(size.width, size.height), asked.width, asked.height):
                raise ValueError(
                    f"for {request.file}, {name} is of {asked.height} x {asked.width} pixels, which is another shape than that "
                    f"of the image to be made, {size.height} x {size.width}; give a map of the same scene"
                )
        return size

    def fields(self, requests: Sequence[SampleRequest], model: LatentDiffusion) -> Fields:
        """See `PromptMode.fields`."""
        fields = given_fields(requests, resized=True)
        wanted, padded = requests[0].size, _padded_size(requests, model)
        assert wanted is not None
        small, factor = tensor_field(fields, OPTION), _low_resolution(model.conditioner).factor
        fields[OPTION] = reflected(small, Size(*(side // factor for side in padded)))
        for name in ON_IMAGE:
            if name in fields:
                fields[name] = reflected(tensor_field(fields, name), padded)
        if "boxes" in fields:
            height, width = (side / whole for side, whole in zip(wanted, padded, strict=True))
            fields["boxes"] = tensor_field(fields, "boxes") * torch.tensor([1.0, width, height, width, height])
        if self.noise_level > 0:
            fields["noise_level"] = torch.full((len(requests),), self.noise_level)
        return fields

    def start(self, requests: Sequence[SampleRequest], model: LatentDiffusion) -> CutStart:
        """See `PromptMode.start`."""
        (wanted,) = {request.size for request in requests}
        assert wanted is not None
        return CutStart(_padded_size(requests, model), wanted)

    def settings(self) -> dict[str, Any]:
        """See `Mode.settings`."""
        return {"noise_level": self.noise_level or None}

    def _check_noise(self, part: LowResolutionConditioner) -> None:
        """Raise ValueError where the model was not trained with as much noise as is asked for."""
        if self.noise_level > part.noise == 0:
            raise ValueError(
                f"noise_level={self.noise_level:g} is of models that were trained with noise, and this one was not "
                "(conditioner.noise=0): it would take the noise for what is to be seen; leave it out"
            )
        if self.noise_level > part.noise:
            raise ValueError(
                f"noise_level={self.noise_level:g} is more than this model has seen in training; give at most "
                f"{part.noise:g} (conditioner.noise)"
            )


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
    """Return the smallest size that holds the images and that the model and the factor can divide."""
    size = requests[0].size
    assert size is not None
    multiple = lcm(model.size_multiple, _low_resolution(model.conditioner).factor)
    return Size(*(-(-side // multiple) * multiple for side in size))


def _low_resolution(conditioner: Conditioner) -> LowResolutionConditioner:
    """Return the part of a model that reads the image of low resolution, and knows by how much it is enlarged.

    Raises:
        ValueError: Where the model was not trained to enlarge.
    """
    found = [part for part in conditioner.modules() if isinstance(part, LowResolutionConditioner)]
    if len({part.factor for part in found}) != 1:
        raise ValueError(
            "mode=super_resolution enlarges by the factor of a LowResolutionConditioner, and this model has "
            f"{'several of different factors' if found else 'none'}; give a model that was trained with "
            "conditioner=low_resolution"
        )
    return found[0]
