"""The Fréchet distance between features of real and of generated images."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance

from ldm.batch import Fields
from ldm.metric.base import ADVICE, GenerationMetric, check_finite
from ldm.metric.extractor import Extractor

REAL_SUMS = ("real_features_sum", "real_features_cov_sum", "real_features_num_samples")


class Frechet(GenerationMetric):
    """Distance between Gaussians fitted to the features of real and generated images; 0 is best.

    Logged under the extractor's name: `fid` for Inception only. Paper: Heusel et al., 2017, eq. 6, arXiv:1706.08500.
    """

    def __init__(self, extractor: Extractor) -> None:
        self.extractor = extractor
        self.distance = FrechetInceptionDistance(_Finite(extractor), reset_real_features=False, normalize=True)
        self.distance.orig_dtype = torch.float32  # of the result, on a rank that is given no image

    @property
    def names(self) -> Sequence[str]:
        return [self.extractor.name]

    @property
    def least_images(self) -> int:
        """Two: one image has no covariance."""
        return 2

    @property
    def reference_name(self) -> str:
        return self.extractor.signature

    def to(self, device: torch.device) -> None:
        self.distance.to(device)

    def refer(self, images: Tensor) -> None:
        check_finite(images, "real images", advice="look at data.val, from which they come")
        self._add(images, real=True)

    def reference(self) -> dict[str, Tensor]:
        return {name: getattr(self.distance, name) for name in REAL_SUMS}

    def set_reference(self, sums: dict[str, Tensor]) -> None:
        if not all(sums[name].isfinite().all() for name in REAL_SUMS):
            raise ValueError(
                f"the stored sums over real images for {self.extractor.name} hold numbers that are not finite (nan or inf); "
                f"delete the file reference-{self.reference_name}-... of the cache, so that they are computed anew"
            )
        for name in REAL_SUMS:
            setattr(self.distance, name, sums[name].to(self.distance.device))

    def update(self, images: Tensor, fields: Fields) -> None:
        check_finite(images, "generated images", advice=ADVICE)
        self._add(images, real=False)

    def compute(self) -> dict[str, float]:
        with torch.autocast(self.distance.device.type, enabled=False):
            value = float(self.distance.compute())
        self.distance.reset()
        return {self.extractor.name: value}

    def _add(self, images: Tensor, *, real: bool) -> None:
        with torch.autocast(images.device.type, enabled=False):
            self.distance.update(images.float(), real=real)


class _Finite(nn.Module):
    """An extractor whose features are refused where they are not finite: LAPACK would end the process over them.

    extractor  the extractor
    """

    def __init__(self, extractor: Extractor) -> None:
        super().__init__()
        self.extractor = extractor
        self.num_features = extractor.num_features

    def forward(self, images: Tensor) -> Tensor:
        features = self.extractor(images)
        check_finite(
            features,
            f"feature vectors of the images for {self.extractor.name}",
            advice="the images are finite, so the extractor's weights are broken: choose another metric, or get them anew",
        )
        return features
