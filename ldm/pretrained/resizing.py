"""The ways in which programs that compute FID resize images for the Inception network; each gives other numbers."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor

from ldm.pretrained.precision import float64

SIDE = 299
"""Height and width in pixels that the Inception network takes."""


class InceptionResize(ABC):
    """A way to resize 8-bit images to 299 x 299, and to scale them to about [-1, 1].

    Attributes:
        name: A name for the signature of the extractor.
    """

    name: str

    @abstractmethod
    def __call__(self, levels: Tensor) -> Tensor:
        """Return images as the network gets them.

        Args:
            levels: `(B, 3, H, W)`, from 0 to 255: uint8, or float32.

        Returns:
            `(B, 3, 299, 299)` float32.
        """


class TensorFlowBilinear(InceptionResize):
    """Resize as TensorFlow 1 does, and with it the FID of the papers, ADM and torch-fidelity.

    Pixel i of the result lies at i * side / 299 of the image, without half a pixel to centre it, between its two neighbours; what
    is made smaller is not smoothed.
    """

    name = "tensorflow_bilinear"

    def __call__(self, levels: Tensor) -> Tensor:
        """See `InceptionResize.__call__`."""
        images = levels.float()
        for axis in (3, 2):
            count = images.shape[axis]
            place = torch.arange(SIDE, device=images.device) * torch.tensor(count / SIDE, dtype=torch.float32)
            low = place.long()
            shape = [-1 if one == axis else 1 for one in range(4)]
            first = images.index_select(axis, low)
            second = images.index_select(axis, (low + 1).clamp(max=count - 1))
            images = first + (second - first) * (place - low).view(shape)
        return (images - 128) / 128


class PyTorchBilinear(InceptionResize):
    """Resize as pytorch-fid does, and with it MLPerf's benchmark: torch's bilinear interpolation of images in [0, 1]."""

    name = "pytorch_bilinear"

    def __call__(self, levels: Tensor) -> Tensor:
        """See `InceptionResize.__call__`."""
        images = F.interpolate(levels.float() / 255, (SIDE, SIDE), mode="bilinear", align_corners=False)
        return 2 * images - 1


class CleanBicubic(InceptionResize):
    """Resize as clean-fid does, by Pillow: bicubic, smoothed where images are made smaller, never rounded to 8 bits.

    Weights are computed in float64, as Pillow's are: torch's own are off by up to 0.007 of 255 levels.

    References:
        Parmar et al., 2022, section 3, arXiv:2104.11222.
    """

    name = "clean_bicubic"

    def __call__(self, levels: Tensor) -> Tensor:
        """See `InceptionResize.__call__`."""
        values = float64(levels)
        across, down = (_bicubic(levels.shape[axis]).to(values.device) for axis in (3, 2))
        images = (values @ across.T).float()  # Pillow, too, resizes rows first, and keeps float32
        return (((down @ images.double()).float().clamp(0, 255) - 128) / 128).to(levels.device)


def _bicubic(count: int) -> Tensor:
    """Return Pillow's bicubic weights `(299, count)` float64: those of pixels for each pixel of the result.

    References:
        Keys, 1981, eq. 8, IEEE Transactions on Acoustics, Speech, and Signal Processing 29 (6), with a = -1/2.
    """
    ratio = count / SIDE
    centre = (torch.arange(SIDE, dtype=torch.float64) + 0.5) * ratio
    x = (torch.arange(count) + 0.5 - centre[:, None]).abs() / max(ratio, 1.0)
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    weights = torch.where(x < 1, near, torch.where(x < 2, far, 0.0))
    return weights / weights.sum(1, keepdim=True)
