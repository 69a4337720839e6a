"""Several metrics of the same images, with one pass of each network."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from ldm.batch import Fields
from ldm.metric.base import CollapsedFeaturesError, FeatureMetric, Metric
from ldm.metric.extraction import ADVICE, check_finite, extract, rounded
from ldm.metric.per_image import PerImageMetric
from ldm.metric.statistics import Reference
from ldm.metric.store import FeatureStore, ValueStore
from ldm.pretrained.extractor import Extractor

log = logging.getLogger(__name__)

FEATURES, NUMBERS, VALUES = "features/", "numbers/", "values/"
"""Prefixes of the names of tensors of a state."""


class MetricSuite:
    """Measures generated images by several metrics, with one pass of each network.

    Images are rounded to 8 bits first, as in a file, so that images measured while training and images read from files have
    the same scores, unless `rounds` is false. What it keeps of N images are D float32 features for each different extractor,
    and a number for each score of single images: 400 MB for 50,000 images and Inception. It computes in float32 and float64,
    whatever the precision of training.

    Args:
        metrics: The metrics.
        rounds: Round images to 8 bits.

    Attributes:
        extractors: Signature -> network, of all feature metrics.
        collapsed: Why scores of the last `compute` are nan, a sentence for each metric.
    """

    def __init__(self, metrics: Iterable[Metric], *, rounds: bool = True) -> None:
        self.metrics = list(metrics)
        self.rounds = rounds
        self.extractors: dict[str, Extractor] = {}
        for metric in self.feature_metrics:
            metric.extractor = self.extractors.setdefault(metric.extractor.signature, metric.extractor)
            metric.extractor.rounds = rounds
        self.collapsed: list[str] = []
        self._device = torch.device("cpu")
        self.reset()

    @property
    def feature_metrics(self) -> list[FeatureMetric]:
        """The metrics that look at features of all images together."""
        return [metric for metric in self.metrics if isinstance(metric, FeatureMetric)]

    @property
    def names(self) -> list[str]:
        """Names of all numbers."""
        return [name for metric in self.metrics for name in metric.names]

    @property
    def inputs(self) -> set[str]:
        """Names of the fields that metrics read."""
        return {name for metric in self.metrics for name in metric.inputs}

    @property
    def real_features(self) -> dict[str, int]:
        """Signature of each extractor that needs a reference -> the most real images whose single features are looked at."""
        wanted: dict[str, int] = {}
        for metric in self.feature_metrics:
            if metric.needs_reference:
                signature = metric.extractor.signature
                wanted[signature] = max(wanted.get(signature, 0), metric.real_features)
        return wanted

    def warnings(self, count: int) -> list[str]:
        """Return a warning for each metric for which a number of images is too small."""
        return [warning for metric in self.metrics if (warning := metric.warning(count)) is not None]

    def to(self, device: torch.device | str) -> None:
        """Move the networks to a device; scores are computed there, too, where it is a GPU with float64."""
        self._device = torch.device(device if torch.device(device).type == "cuda" else "cpu")
        for extractor in self.extractors.values():
            extractor.to(device)

    def reset(self) -> None:
        """Forget all images."""
        self.features = {name: FeatureStore(one.num_features) for name, one in self.extractors.items()}
        self.values = {
            name: ValueStore() for one in self.metrics if isinstance(one, PerImageMetric) for name in one.names
        }

    @torch.no_grad()
    def update(self, images: Tensor, fields: Fields, numbers: Sequence[int]) -> None:
        """Add generated images.

        Args:
            images: `(B, 3, H, W)` in [-1, 1], on the device of the networks.
            fields: The fields that they were made for, B of each.
            numbers: The number of each image among all images of all processes. Each number comes once.

        Raises:
            ValueError: Where images or features are not finite, or fields cannot be measured by.
        """
        check_finite(images, "generated images", advice=ADVICE)
        images = rounded(images) if self.rounds else images.float()
        for signature, extractor in self.extractors.items():
            self.features[signature].add(extract(extractor, images), numbers)
        for metric in self.metrics:
            if isinstance(metric, PerImageMetric):
                for name, values in metric.measure(images, fields).items():
                    self.values[name].add(values)

    def state(self) -> dict[str, Tensor]:
        """Return all that was collected, as tensors by name on the CPU; `merge` puts those of several processes together."""
        found: dict[str, Tensor] = {}
        for signature, store in self.features.items():
            found |= {FEATURES + signature: store.rows, NUMBERS + signature: store.numbers}
        return found | {VALUES + name: store.values for name, store in self.values.items()}

    def merge(self, state: Mapping[str, Tensor]) -> None:
        """Add what another process has collected, as its `state` gives it. What other metrics collected is left out."""
        for signature, store in self.features.items():
            store.add(state[FEATURES + signature], state[NUMBERS + signature])
        for name, values in self.values.items():
            values.add(state[VALUES + name])

    def check_references(self, references: Mapping[str, Reference]) -> None:
        """Raise ValueError where what is known of real images cannot serve one of the metrics; `references`: see `score`."""
        for metric in self.feature_metrics:
            if metric.needs_reference:
                found = references.get(metric.extractor.signature)
                (metric.features_of if metric.real_features else metric.check_reference)(found)

    def score(self, metric: Metric, references: Mapping[str, Reference]) -> dict[str, float]:
        """Return the numbers of one of the metrics over all images since the last reset.

        Args:
            metric: The metric.
            references: Signature of an extractor -> what is known of real images.

        Raises:
            CollapsedFeaturesError: Where the features of all images are the same.
            ValueError: Where there are too few images, or a reference lacks what is needed.
        """
        if isinstance(metric, FeatureMetric):
            signature = metric.extractor.signature
            return metric.measure(self.features[signature].ordered().to(self._device), references.get(signature))
        return {name: self.values[name].mean() for name in metric.names}

    def compute(self, references: Mapping[str, Reference]) -> dict[str, float]:
        """Return the numbers of all metrics; see `score`.

        Where all images have the same features, as with a model that has just begun, scores are nan, and a warning says so: what
        others measure is not lost.
        """
        scores: dict[str, float] = {}
        self.collapsed = []
        for metric in self.metrics:
            try:
                scores |= self.score(metric, references)
            except CollapsedFeaturesError as collapse:
                log.warning("%s; the score is nan", collapse)
                self.collapsed.append(str(collapse))
                scores |= dict.fromkeys(metric.names, math.nan)
        return scores
