"""The start of sampling by a model that was trained to fill holes."""

from __future__ import annotations

from torch import Tensor

from ldm.batch import Fields, Size, tensor_field
from ldm.conditioner.base import Conditioner
from ldm.generation.start import blend_known, each_masked
from ldm.guidance.context import GuidanceContext
from ldm.model import Beginning, LatentDiffusion, Start
from ldm.options.rule import Whole, check
from ldm.sampler.base import Sampler
from ldm.sampler.noise import SeededNoise


class CompletionStart(Start):
    """Begins with noise, for a model that reads images and masks itself, and puts what is not masked back at the end.

        model.sample({"image": image, "mask": mask}, start=CompletionStart(image, mask))

    Args:
        image: `(N, 3, H, W)` in [-1, 1], one for each image to be made; a single one is for all.
        mask: 1 where something new shall be, 0 where the image stays, `(N, 1, H, W)`; a single one is for all.
        border: Width in pixels of the border around the mask over which new and old are blended.

    References:
        Rombach et al., 2022, section 4.5, arXiv:2112.10752.
    """

    def __init__(self, image: Tensor, mask: Tensor, *, border: int = 4) -> None:
        check("border", border, Whole(0))
        self.image = image
        self.mask = mask
        self.border = border

    @property
    def size(self) -> Size:
        """See `Start.size`."""
        return Size(*self.image.shape[-2:])

    def each(self, count: int) -> CompletionStart:
        """See `Start.each`."""
        return CompletionStart(*each_masked(self.image, self.mask, count), border=self.border)

    def rows(self, chunk: slice) -> CompletionStart:
        """See `Start.rows`."""
        return CompletionStart(self.image[chunk], self.mask[chunk], border=self.border)

    def begin(self, model: LatentDiffusion, given: GuidanceContext, noise: SeededNoise, sampler: Sampler) -> Beginning:
        """Change nothing; see `Start.begin`."""
        return Beginning(given, noise)

    def finish(self, images: Tensor) -> Tensor:
        """Blend the images with the known ones, over the border; see `Start.finish`."""
        return blend_known(images, self.image, self.mask, self.border)


def fills_holes(conditioner: Conditioner) -> bool:
    """Return whether a model with this conditioner was trained to fill holes."""
    return "mask" in conditioner.inputs


def known_parts(conditioner: Conditioner, fields: Fields) -> CompletionStart | None:
    """Return the start that puts the known pixels of images back, so that completed images can be measured as the paper does.

    Args:
        conditioner: The conditioner of the model.
        fields: The fields of the images.

    Returns:
        The start; None for a model that was not trained to fill holes.
    """
    if not fills_holes(conditioner):
        return None
    return CompletionStart(tensor_field(fields, "image"), tensor_field(fields, "mask"), border=0)
