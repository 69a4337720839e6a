"""Likeness to an image as something to be guided by: super-resolution and variation by a model never trained for them."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from ldm.options import POSITIVE, check


class Likeness:
    """log p(y | x) = -distance(y, x made as small as y) / (2 deviation^2).

    image      y, `(3, h, w)` in [-1, 1], of any size not above that of the images
    deviation  how far from it an image may be, in units of a value; smaller holds more tightly
    distance   between two batches of images -> `(B,)`, LPIPS for one; None: the squared error, summed over y

    Paper: Rombach et al., 2022, appendix C, eq. 15 and 16, arXiv:2112.10752.
    """

    def __init__(self, image: Tensor, *, deviation: float = 0.1, distance: nn.Module | None = None) -> None:
        check("guidance.score.deviation", deviation, POSITIVE)
        self.image = image
        self.deviation = deviation
        self.distance = distance

    def log_likelihood(self, image: Tensor, prompts: object) -> Tensor:
        """See Score; prompts play no part."""
        small = F.interpolate(image, self.image.shape[1:], mode="bilinear", antialias=True, align_corners=False)
        wanted = self.image.to(image.device).expand_as(small)
        if self.distance is not None:
            far = self.distance.to(image.device)(small, wanted)
        else:
            far = (small - wanted).square().flatten(1).sum(1)
        return -0.5 * far / self.deviation**2
