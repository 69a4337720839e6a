"""The distance between the distributions of images and of their reconstructions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from ldm.metric.base import GenerationMetric


class ReconstructionDistance:
    """Measures how far the distribution of reconstructions is from that of their images, by metrics of generated images.

    A number is named after its metric, with an r before it: rFID is `rfid`. Reference and reconstructions are the same images.
    The reference is kept: what is measured later, with other weights, must be measured on the same images in the same places.

    Args:
        metrics: The metrics. Those that compare with no distribution of images, or read other fields, are left out.

    References:
        Rombach et al., 2022, table 8 (rFID), arXiv:2112.10752.
    """

    def __init__(self, metrics: Iterable[GenerationMetric]) -> None:
        self.metrics = [one for one in metrics if one.reference_name is not None and not one.inputs]
        self._referred = False

    @property
    def names(self) -> Sequence[str]:
        """Names of the numbers that `compute` gives."""
        return [f"r{name}" for metric in self.metrics for name in metric.names]

    def to(self, device: torch.device) -> None:
        """Move to a device."""
        for metric in self.metrics:
            metric.to(device)

    def update(self, images: Tensor, reconstructions: Tensor) -> None:
        """Add images and their reconstructions, both `(B, 3, H, W)` in [-1, 1]."""
        for metric in self.metrics:
            if not self._referred:
                metric.update_reference(images)
            metric.update(reconstructions, {})

    def compute(self) -> dict[str, float]:
        """Return name -> number over all images of all ranks since the last call. Every rank must call it."""
        self._referred = True
        return {f"r{name}": value for metric in self.metrics for name, value in metric.compute().items()}

    def doubts(self, count: int) -> list[str]:
        """Say of each metric for which a number of images is too small what that means; nothing of the others.

        Args:
            count: Number of images, over all ranks.
        """
        return [
            f"r{metric.names[0]} is measured on {count} images, and the covariance of its features needs more than "
            f"{metric.wanted_images - 1}: compare it with others of the same images alone, and not with published ones"
            for metric in self.metrics
            if count < metric.wanted_images
        ]
