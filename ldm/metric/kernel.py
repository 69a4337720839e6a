"""Distances between distributions of features by a kernel: KID and CMMD."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from ldm.metric.base import FeatureMetric
from ldm.metric.statistics import Reference
from ldm.options.rule import COUNT, Real, Whole, check
from ldm.pretrained.extractor import Extractor

BLOCK = 2**24
"""The most float64 numbers of a block of a kernel matrix: 128 MiB."""


class KID(FeatureMetric):
    """The kernel distance between features of real and of generated images, without bias: 0 on average for equal distributions.

    It is the mean over random subsets of both sets, with its standard deviation over subsets beside it. It is called `kid` for
    Inception only, otherwise `kid_` with the extractor's name behind it. Subsets are drawn as torch-fidelity draws them, so that
    the numbers agree.

    Args:
        extractor: Network that gives the features.
        subsets: Number of subsets.
        subset_size: Images in a subset, of each kind; there must be so many.
        real_features: The most real images that subsets are drawn from, evenly spread over all of them.
        seed: Seed of the subsets.

    References:
        Binkowski et al., 2018, section 4, arXiv:1801.01401.
    """

    published_on = "inception"

    def __init__(
        self,
        extractor: Extractor,
        *,
        subsets: int = 100,
        subset_size: int = 1000,
        real_features: int = 10_000,
        seed: int = 2020,
    ) -> None:
        check("metric.kid.subsets", subsets, COUNT)
        check("metric.kid.subset_size", subset_size, Whole(2))
        check("metric.kid.real_features", real_features, Whole(subset_size))
        super().__init__(extractor, real_features=real_features)
        self.subsets = subsets
        self.subset_size = subset_size
        self.seed = seed

    @property
    def names(self) -> Sequence[str]:
        """Return the names of the distance and of its standard deviation over subsets."""
        return [self.named("kid"), self.named("kid_std")]

    @property
    def least_images(self) -> int:
        """Return the size of a subset."""
        return self.subset_size

    def measure(self, generated: Tensor, reference: Reference | None) -> dict[str, float]:
        """Return the mean over subsets and its standard deviation; see `FeatureMetric.measure`."""
        self.check_generated(generated)
        real = self.features_of(reference).to(generated.device)
        rng = np.random.RandomState(self.seed)
        found = []
        for _ in tqdm(range(self.subsets), desc=self.names[0], unit="subset", leave=False):
            parts = [
                features[
                    torch.from_numpy(rng.choice(len(features), self.subset_size, replace=False)).to(features.device)
                ]
                for features in (generated, real)
            ]
            found.append(polynomial_mmd(*parts))
        return dict(zip(self.names, (float(np.mean(found)), float(np.std(found))), strict=True))


class CMMD(FeatureMetric):
    """The distance between embeddings of real and of generated images by a Gaussian kernel; 0 is best.

    It is called `cmmd` for CLIP's embeddings only, otherwise `cmmd_` with the extractor's name behind it. The estimate counts
    each image with itself, as the paper's does, so that it is never negative, and is larger for fewer images.

    Args:
        extractor: Network that gives the embeddings.
        sigma: Width of the kernel exp(-|x - y|^2 / (2 sigma^2)).
        scale: Factor of the squared distance.
        real_features: The most real images that are compared with, evenly spread over all of them.

    References:
        Jayasumana et al., 2024, section 4, arXiv:2401.09603.
    """

    published_on = "clip_l_336"

    def __init__(
        self, extractor: Extractor, *, sigma: float = 10.0, scale: float = 1000.0, real_features: int = 10_000
    ) -> None:
        check("metric.cmmd.sigma", sigma, Real(0, above=True))
        check("metric.cmmd.scale", scale, Real(0, above=True))
        check("metric.cmmd.real_features", real_features, COUNT)
        super().__init__(extractor, real_features=real_features)
        self.sigma = sigma
        self.scale = scale

    @property
    def names(self) -> Sequence[str]:
        """Return the name of the distance."""
        return [self.named("cmmd")]

    @property
    def least_images(self) -> int:
        """Return two: one image alone cannot show whether all are the same."""
        return 2

    def measure(self, generated: Tensor, reference: Reference | None) -> dict[str, float]:
        """Return the distance; see `FeatureMetric.measure`."""
        self.check_generated(generated)
        made, real = generated.double(), self.features_of(reference).to(generated.device).double()
        squared = self._mean(made, made) + self._mean(real, real) - 2 * self._mean(made, real)
        return {self.names[0]: self.scale * squared}

    def _mean(self, x: Tensor, y: Tensor) -> float:
        """Return the mean of the kernel over all pairs, block by block."""
        rows = max(1, BLOCK // len(y))
        total = 0.0
        for block in x.split(rows):
            exponent = squared_distances(block, y).div_(-2 * self.sigma**2)
            total += float(exponent.exp_().sum())
        return total / (len(x) * len(y))


def polynomial_mmd(x: Tensor, y: Tensor) -> float:
    """Return the squared distance of two sets by the kernel (x^T y / D + 1)^3, without bias, in float64.

    Args:
        x: Features `(M, D)`.
        y: Features `(N, D)`.

    References:
        Gretton et al., 2012, eq. 3, JMLR 13.
    """
    x, y = x.double(), y.double()

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        base = (a @ b.T).div_(a.shape[1]).add_(1)
        return base * base * base

    def without_diagonal(a: Tensor) -> Tensor:
        values = kernel(a, a)
        return (values.sum() - values.diagonal().sum()) / (len(a) * (len(a) - 1))

    return float(without_diagonal(x) + without_diagonal(y) - 2 * kernel(x, y).mean())


def squared_distances(x: Tensor, y: Tensor) -> Tensor:
    """Return |x_i - y_j|^2, 0 or greater, `(M, N)`, for `(M, D)` and `(N, D)` of the same type."""
    return torch.addmm(y.square().sum(1), x, y.T, alpha=-2).add_(x.square().sum(1)[:, None]).clamp_(min=0)
