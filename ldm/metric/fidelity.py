"""Metrics for models that complete or enlarge an image that is known: how near to it they come."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from ldm.batch import Fields, tensor_field
from ldm.metric.per_image import PerImageMetric
from ldm.pretrained.precision import float64

NEAREST = 1e-6
"""The smallest mean squared error of values in [-1, 1] that counts: 66 dB."""


class SuperResolutionFidelity(PerImageMetric):
    """Peak signal-to-noise ratio of enlarged images in dB, and that of bicubic interpolation, to compare with it."""

    inputs = ("image", "low_resolution")

    def __init__(self) -> None:
        super().__init__(["enlarged_psnr", "bicubic_psnr"])

    def measure(self, images: Tensor, fields: Fields) -> Mapping[str, Tensor]:
        """Return both ratios; see `PerImageMetric.measure`."""
        images = float64(images)
        truth, small = (tensor_field(fields, name).to(images) for name in self.inputs)
        bicubic = F.interpolate(small, truth.shape[-2:], mode="bicubic", align_corners=False).clamp(-1, 1)
        everywhere = torch.ones_like(truth[:, :1])
        return {"enlarged_psnr": psnr(images, truth, everywhere), "bicubic_psnr": psnr(bicubic, truth, everywhere)}


class InpaintingFidelity(PerImageMetric):
    """Peak signal-to-noise ratio in dB of what was made where an image was masked, and that of the mean colour beside it."""

    inputs = ("image", "mask")

    def __init__(self) -> None:
        super().__init__(["hole_psnr", "mean_color_psnr"])

    def measure(self, images: Tensor, fields: Fields) -> Mapping[str, Tensor]:
        """Return both ratios of the images that were masked somewhere; see `PerImageMetric.measure`."""
        images = float64(images)
        truth, mask = (tensor_field(fields, name).to(images) for name in self.inputs)
        some = mask.flatten(1).any(1)
        images, truth, mask = images[some], truth[some], mask[some]
        known = 1 - mask
        mean = (truth * known).sum((2, 3), keepdim=True) / known.sum((2, 3), keepdim=True).clamp(min=1)
        return {
            "hole_psnr": psnr(images, truth, mask),
            "mean_color_psnr": psnr(mean.expand_as(truth), truth, mask),
        }


def psnr(images: Tensor, truth: Tensor, where: Tensor) -> Tensor:
    """Return the peak signal-to-noise ratio of each image in dB, `(B,)`.

    Args:
        images: `(B, 3, H, W)` in [-1, 1].
        truth: The images that they should equal, `(B, 3, H, W)` in [-1, 1].
        where: 1 for the pixels that count, 0 for the others, `(B, 1, H, W)`.
    """
    error = ((images - truth).square() * where).sum((1, 2, 3)) / (images.shape[1] * where.sum((1, 2, 3)))
    return 10 * (4 / error.clamp(min=NEAREST)).log10()
