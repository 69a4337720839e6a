"""The Fréchet distance between features of real and of generated images."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance

from ldm.batch import Fields
from ldm.metric.base import ADVICE, GenerationMetric, check_finite
from ldm.pretrained.extractor import Extractor
from ldm.pretrained.precision import full_precision

REAL = "real_features_"
"""How torchmetrics' state dict begins the names of the sums over real images."""


class Frechet(GenerationMetric):
    """The distance between Gaussians fitted to the features of real and of generated images; 0 is best.

    It is logged under the extractor's name: `fid` for Inception only.

    Args:
        extractor: Network that gives the features.

    References:
        Heusel et al., 2017, eq. 6, arXiv:1706.08500.
    """

    def __init__(self, extractor: Extractor) -> None:
        self.extractor = extractor
        self.distance = FrechetInceptionDistance(_Features(extractor.num_features), reset_real_features=False)
        self.distance.persistent(True)

    @property
    def names(self) -> Sequence[str]:
        """Return the extractor's name."""
        return [self.extractor.name]

    @property
    def least_images(self) -> int:
        """Return two: one image has no covariance."""
        return 2

    @property
    def wanted_images(self) -> int:
        """Return one more than a feature vector has numbers: the covariance of n vectors has a rank of n - 1 at most."""
        return self.extractor.num_features + 1

    @property
    def reference_name(self) -> str:
        """Return the extractor's signature."""
        return self.extractor.signature

    def to(self, device: torch.device) -> None:
        """Move the extractor and the sums to a device."""
        self.extractor.to(device)
        self.distance.to(device)

    def update_reference(self, images: Tensor) -> None:
        """Add real images `(B, 3, H, W)` in [-1, 1]."""
        check_finite(images, "real images", advice="look at data.val, from which they come")
        self._add(images, real=True)

    def reference(self) -> dict[str, Tensor]:
        """Return the sums over the features of this rank's real images: of values, of products, and their number."""
        return {name: value for name, value in self.distance.state_dict().items() if name.startswith(REAL)}

    def set_reference(self, sums: dict[str, Tensor]) -> None:
        """Use these sums over real images.

        Raises:
            ValueError: Where they are not finite.
        """
        if not all(value.isfinite().all() for value in sums.values()):
            raise ValueError(
                f"the stored sums over real images for {self.extractor.name} hold numbers that are not finite (nan or inf); "
                f"delete the file reference-{self.reference_name}-... of the cache, so that they are computed anew"
            )
        kept = {name: sums[name].to(self.distance.device) for name in self.reference()}
        self.distance.load_state_dict(kept, strict=False)

    def update(self, images: Tensor, fields: Fields) -> None:
        """Add generated images `(B, 3, H, W)` in [-1, 1]; the fields play no part."""
        check_finite(images, "generated images", advice=ADVICE)
        self._add(images, real=False)

    def compute(self) -> dict[str, float]:
        """Return the distance over all images of all ranks, and forget the generated ones."""
        none = torch.zeros(0, self.extractor.num_features, device=self.distance.device)
        self.distance.update(none, real=False)  # without an update torchmetrics could not compute
        with full_precision(self.distance.device):
            value = float(self.distance.compute())
        self.distance.reset()
        return {self.extractor.name: value}

    @torch.no_grad()
    def _add(self, images: Tensor, *, real: bool) -> None:
        """Add the features of images, refused where they are not finite: LAPACK would end the process over them."""
        with full_precision(images.device):
            features = self.extractor(images.float())
            check_finite(
                features,
                f"feature vectors of the images for {self.extractor.name}",
                advice="the images are finite, so the extractor's weights are broken: choose another metric, or get them anew",
            )
            self.distance.update(features, real=real)


class _Features(nn.Module):
    """Stand for a network where torchmetrics wants one: it is given features, and returns them.

    Args:
        num_features: Length of a feature vector.
    """

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, features: Tensor) -> Tensor:
        """Return the features `(B, num_features)` as they are."""
        return features
