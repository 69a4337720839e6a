"""LowResolutionScore to a low-resolution image as a score: super-resolution and variations by a model never trained for them."""

from __future__ import annotations

from torch import Tensor, nn

from ldm.options.rule import POSITIVE, check
from ldm.pretrained.interpolation import interpolate


class LowResolutionScore:
    """The score log p(y | x) = -distance(y, x made as small as y) / (2 deviation^2) for a low-resolution image y.

    Args:
        image: y, `(3, h, w)`, in [-1, 1], not larger than the images that are made.
        std: How far from y an image may be, in units of a pixel value, positive; the paper takes 1. A smaller one holds more
            tightly; one that is much smaller moves the estimates of the first steps so far that the images break.
        distance: A distance between two batches of images, `(B,)`, for example LPIPS; None: the squared error, summed
            over the values of y.

    Raises:
        ValueError: If the deviation is not positive.

    References:
        Rombach et al., 2022, appendix C, eq. 15 and 16, arXiv:2112.10752.
    """

    def __init__(self, image: Tensor, *, std: float = 1.0, distance: nn.Module | None = None) -> None:
        check("guidance.score.std", std, POSITIVE)
        self.image = image
        self.std = std
        self.distance = distance

    def log_likelihood(self, image: Tensor, prompts: object) -> Tensor:
        """Return log p(y | image), `(B,)`; the prompts are not used. See `Score`."""
        small = interpolate(image, self.image.shape[1:], "bilinear")
        self.image = self.image.to(image.device)  # once: a copy at each step would be waited for
        wanted = self.image.expand_as(small)
        if self.distance is not None:
            far: Tensor = self.distance.to(image.device)(small, wanted)
        else:
            far = (small - wanted).square().flatten(1).sum(1)
        return -0.5 * far / self.std**2
