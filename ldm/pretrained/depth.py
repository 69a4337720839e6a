"""Depth maps of images by a frozen network."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn
from transformers import AutoModelForDepthEstimation

from ldm.pretrained.frozen import FrozenNetwork


class DepthNetwork(FrozenNetwork):
    """A depth network of Hugging Face (DPT, Depth Anything, ...), which estimates how near each pixel is.

    Args:
        name: Name of the model on the hub, or a local folder.
        size: Side in pixels to which images are resized first, as the network was trained on.

    References:
        Ranftl et al., 2021, arXiv:2103.13413.
    """

    kind = "depth network"
    auto: ClassVar = AutoModelForDepthEstimation

    def read(self, network: nn.Module, pixels: Tensor) -> Tensor:
        """Return the depth maps `(B, 1, h, w)` of standardized images `(B, 3, size, size)`, of no fixed range."""
        depth: Tensor = network(pixels).predicted_depth
        return depth[:, None]
