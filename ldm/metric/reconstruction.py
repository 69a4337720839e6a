"""The distance between the distributions of images and of their reconstructions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from ldm.metric.base import FeatureMetric, Metric
from ldm.metric.statistics import Reference, ReferenceBuilder, evenly_spaced
from ldm.metric.suite import MetricSuite


class ReconstructionDistance:
    """Measures how far the distribution of reconstructions is from that of their images, by metrics of generated images.

    A number is named after its metric, with an r before it: rFID is `rfid`. Reference and reconstructions are the same images.
    The reference is kept: what is measured later, with other weights, must be measured on the same images in the same places.

    Args:
        metrics: The metrics. Those that compare with no distribution of images, or read other fields, are left out.

    Attributes:
        suite: Collects the features of reconstructions.
        builders: Signature of an extractor -> what collects the features of images, until `references` are known.
        references: Signature of an extractor -> what is known of the images.

    References:
        Rombach et al., 2022, table 8 (rFID), arXiv:2112.10752.
    """

    def __init__(self, metrics: Iterable[Metric]) -> None:
        self.metrics = [one for one in metrics if isinstance(one, FeatureMetric) and one.needs_reference]
        self.suite = MetricSuite(self.metrics)
        self.builders: dict[str, ReferenceBuilder] = {}
        self.references: dict[str, Reference] | None = None

    @property
    def names(self) -> Sequence[str]:
        """Names of the numbers that `compute` gives."""
        return [f"r{name}" for name in self.suite.names]

    def to(self, device: torch.device) -> None:
        """Move to a device."""
        self.suite.to(device)

    def start(self, count: int) -> None:
        """Begin to measure: forget what was added, but not the reference, where it is known.

        Args:
            count: Number of images, over all ranks.
        """
        self.suite.reset()
        if self.references is None:
            self.builders = {
                signature: ReferenceBuilder(self.suite.extractors[signature], evenly_spaced(count, kept))
                for signature, kept in self.suite.real_features.items()
            }

    def update(self, images: Tensor, reconstructions: Tensor, numbers: Sequence[int]) -> None:
        """Add images and their reconstructions, both `(B, 3, H, W)` in [-1, 1], and the number of each of the images."""
        if self.references is None:
            for builder in self.builders.values():
                builder.update(images, numbers)
        self.suite.update(reconstructions, {}, numbers)

    def compute(self) -> dict[str, float]:
        """Return name -> number over all images since `start`."""
        if self.references is None:
            self.references = {signature: builder.reference() for signature, builder in self.builders.items()}
        return {f"r{name}": value for name, value in self.suite.compute(self.references).items()}

    def warnings(self, count: int) -> list[str]:
        """Return a warning for each metric for which a number of images is too small.

        Args:
            count: Number of images, over all ranks.
        """
        return [f"r{warning}" for warning in self.suite.warnings(count)]
