"""The Fréchet distance between features of real and of generated images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ldm.metric.base import FeatureMetric
from ldm.metric.statistics import Reference, Statistics

PAPERS: Mapping[str, str] = {"inception": "fid", "inception_spatial": "sfid"}
"""Name of an extractor -> what papers call the distance of its features."""


class Frechet(FeatureMetric):
    """The distance between Gaussians fitted to the features of real and of generated images; 0 is best.

    It is called `fid` for Inception and `sfid` for its features of places, otherwise `frechet_` with the extractor's name behind
    it: `frechet_dinov2` is the FD-DINOv2 of Stein et al.

    Args:
        extractor: Network that gives the features.

    References:
        Heusel et al., 2017, eq. 6, arXiv:1706.08500; Stein et al., 2023, section 4, arXiv:2306.04675.
    """

    @property
    def names(self) -> Sequence[str]:
        """Return the name of the distance."""
        return [PAPERS.get(self.extractor.name, f"frechet_{self.extractor.name}")]

    @property
    def least_images(self) -> int:
        """Return two: one image has no covariance."""
        return 2

    @property
    def wanted_images(self) -> int:
        """Return one more than a feature vector has numbers: the covariance of n vectors has a rank of n - 1 at most."""
        return self.extractor.num_features + 1

    def too_few(self, count: int) -> str:
        """See `Metric.too_few`."""
        width = self.extractor.num_features
        return f"the covariance of its {width} features needs more than {width}: its rank is {count - 1} at most"

    def measure(self, generated: Tensor, reference: Reference | None) -> dict[str, float]:
        """Return the distance; see `FeatureMetric.measure`."""
        self.check_generated(generated)
        real = self.check_reference(reference).statistics
        return {self.names[0]: frechet_distance(Statistics.of(generated), real)}


def frechet_distance(a: Statistics, b: Statistics) -> float:
    """Return |m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2)), computed in float64.

    With C = F F^T, the trace of the root is the sum of the singular values of F_a^T F_b, which come out exact to rounding also
    where a covariance has no full rank.

    Args:
        a: Mean m_a and covariance C_a.
        b: Mean m_b and covariance C_b, of features of the same length.

    Returns:
        The distance, 0 or greater.

    References:
        Dowson & Landau, 1982, eq. 4, Journal of Multivariate Analysis 12 (3).
    """
    shift = a.mean - b.mean.to(a.mean)
    root = torch.linalg.svdvals(a.factor.T @ b.factor.to(a.mean)).sum()
    trace = a.covariance.trace() + b.covariance.trace().to(a.mean)
    return max(float(shift.square().sum() + trace - 2 * root), 0.0)
