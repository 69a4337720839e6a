"""The Fréchet distance between features of real and of generated images."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics.image.fid import FrechetInceptionDistance

from ldm.metric.base import GenerationMetric
from ldm.metric.extractor import Extractor

REAL_SUMS = ("real_features_sum", "real_features_cov_sum", "real_features_num_samples")


class Frechet(GenerationMetric):
    """Distance between Gaussians fitted to the features of real and generated images; 0 is best.

    Logged under the extractor's name: `fid` for Inception only. Paper: Heusel et al., 2017, eq. 6, arXiv:1706.08500.
    """

    def __init__(self, extractor: Extractor) -> None:
        self.extractor = extractor
        self.distance = FrechetInceptionDistance(extractor, reset_real_features=False, normalize=True)

    @property
    def names(self) -> Sequence[str]:
        return [self.extractor.name]

    @property
    def reference_name(self) -> str:
        return self.extractor.signature

    def to(self, device: torch.device) -> None:
        self.distance.to(device)

    def refer(self, images: Tensor) -> None:
        self.distance.update(images, real=True)

    def reference(self) -> dict[str, Tensor]:
        return {name: getattr(self.distance, name) for name in REAL_SUMS}

    def set_reference(self, sums: dict[str, Tensor]) -> None:
        for name in REAL_SUMS:
            setattr(self.distance, name, sums[name].to(self.distance.device))

    def update(self, images: Tensor, captions: Sequence[str]) -> None:
        self.distance.update(images, real=False)

    def compute(self) -> dict[str, float]:
        value = float(self.distance.compute())
        self.distance.reset()
        return {self.extractor.name: value}
