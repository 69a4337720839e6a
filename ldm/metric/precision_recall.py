"""Precision and recall of generated images, by nearest neighbours of their features."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from tqdm.auto import tqdm

from ldm.metric.base import FeatureMetric
from ldm.metric.kernel import BLOCK, squared_distances
from ldm.metric.statistics import Reference
from ldm.options.rule import COUNT, Whole, check
from ldm.pretrained.extractor import Extractor


class PrecisionRecall(FeatureMetric):
    """Precision is the share of generated images that look real, recall the share of real images that could be generated.

    Each image of a set has a ball that reaches to its k-th nearest neighbour of the same set. A generated image looks real where
    it is within the ball of any real one; a real image could be generated where it is within the ball of any generated one. Both
    depend on the numbers of images. They are called `precision` and `recall` for Inception only, otherwise with the extractor's
    name behind it. Distances are computed block by block: 128 MiB at once.

    Args:
        extractor: Network that gives the features.
        neighbors: Which neighbour a ball reaches to.
        real_features: The most real images that are compared with, evenly spread over all of them: 10,000 as in ADM's evaluation.

    References:
        Kynkäänniemi et al., 2019, section 2, arXiv:1904.06991; Dhariwal & Nichol, 2021, section 2.2, arXiv:2105.05233.
    """

    published_on = "inception"

    def __init__(self, extractor: Extractor, *, neighbors: int = 3, real_features: int = 10_000) -> None:
        check("metric.precision_recall.neighbors", neighbors, COUNT)
        check("metric.precision_recall.real_features", real_features, Whole(neighbors + 1))
        super().__init__(extractor, real_features=real_features)
        self.neighbors = neighbors

    @property
    def names(self) -> Sequence[str]:
        """Return the names of both."""
        return [self.named("precision"), self.named("recall")]

    @property
    def least_images(self) -> int:
        """Return one more than there are neighbours."""
        return self.neighbors + 1

    @property
    def wanted_images(self) -> int:
        """Return the number of real images in ADM's evaluation."""
        return 10_000

    def too_few(self, count: int) -> str:
        """See `Metric.too_few`."""
        return "depends on the number of images; published ones are of 10,000 or more"

    def measure(self, generated: Tensor, reference: Reference | None) -> dict[str, float]:
        """Return both; see `FeatureMetric.measure`."""
        self.check_generated(generated)
        real = self.features_of(reference).to(generated.device).double()
        centre = real.mean(0)  # distances of near points lose fewer digits
        real, made = real - centre, generated.double() - centre
        precision, recall = (self._covered(a, b) for a, b in ((made, real), (real, made)))
        return dict(zip(self.names, (precision, recall), strict=True))

    def _covered(self, points: Tensor, centres: Tensor) -> float:
        """Return the share of points `(N, D)` that are within the ball of any centre `(M, D)`."""
        rows = max(1, BLOCK // len(centres))
        steps = tqdm(desc=self.names[0], total=len(centres) + len(points), unit="image", leave=False)
        radii = []
        for block in centres.split(rows):
            nearest = squared_distances(block, centres).topk(self.neighbors + 1, largest=False).values
            radii.append(nearest[:, -1])  # the nearest of all is the image itself
            steps.update(len(block))
        radius = torch.cat(radii)
        found = 0
        for block in points.split(rows):
            found += int((squared_distances(block, centres) <= radius).any(1).sum())
            steps.update(len(block))
        steps.close()
        return found / len(points)
