"""The metrics of an evaluation; what they need is known before their networks are loaded."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from omegaconf import DictConfig

from ldm.batch import Size
from ldm.config import build, build_trusted, class_of, resolved, trusted_class
from ldm.evaluate.defaults import offline_metric
from ldm.metric.base import FeatureMetric, Metric
from ldm.metric.suite import MetricSuite


class ChosenMetrics:
    """The metrics of a command, of the run, or those that need no download.

    Args:
        config: The options.
        run: The config of the run that the model belongs to; None: it is not known.
        packages: Packages whose classes the run's config may name.

    Attributes:
        rounds: Whether images are rounded to 8 bits first.
        inputs: Names of the fields that they read beside the images.
        needs_reference: Whether one of them compares with real images.
    """

    def __init__(self, config: DictConfig, run: Mapping[str, Any] | None, packages: Sequence[str]) -> None:
        self.rounds = not config.get("unrounded")
        given = config.get("metric")
        self._packages = packages if given is None and run is not None and run.get("metric") else None
        chosen = run["metric"] if self._packages is not None and run is not None else given
        self._settings: dict[str, Any] = resolved(offline_metric() if chosen is None else chosen)
        classes = [self._class_of(node) for node in self._settings.values()]
        self.inputs = {name for one in classes for name in one.inputs}
        self.needs_reference = any(issubclass(one, FeatureMetric) and one.needs_reference for one in classes)

    def build(self) -> dict[str, Metric]:
        """Return the metrics by name; weights that are not there are downloaded."""
        trusted = self._packages
        found: dict[str, Metric] = build(self._settings) if trusted is None else build_trusted(self._settings, trusted)
        return found

    def suites(self, metrics: Mapping[str, Metric]) -> dict[str, MetricSuite]:
        """Return the suites that measure images, by a name for the features that each one keeps; metrics share features.

        Args:
            metrics: The metrics, as `build` returns them.
        """
        groups: dict[str, list[Metric]] = {}
        for name, metric in metrics.items():
            if isinstance(metric, FeatureMetric):
                groups.setdefault(f"features-{metric.extractor.signature}", []).append(metric)
            else:
                groups[f"{name}-{known_by(self._settings[name])}"] = [metric]
        return {name: MetricSuite(group, rounds=self.rounds) for name, group in groups.items()}

    def _class_of(self, node: Any) -> type[Metric]:
        found = class_of(node) if self._packages is None else trusted_class(node, self._packages)
        if not issubclass(found, Metric):
            raise ValueError(f"metric names {found.__name__}, which is no metric; choose one of configs/metric")
        return found


def known_by(settings: Any) -> str:
    """Return a short name for what a plain config says."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]


def check_sizes(metrics: Mapping[str, Metric], sizes: Collection[Size]) -> None:
    """Raise ValueError where a metric does not measure images of one of some sizes."""
    for metric in metrics.values():
        other = [] if metric.size is None else sorted(size for size in sizes if size != metric.size)
        if other and metric.size is not None:
            raise ValueError(
                f"{metric.names[0]} compares images with drawings of {metric.size.height} x {metric.size.width} pixels, and "
                f"here are images of {other[0].height} x {other[0].width}; choose another size=, or a metric like metric=offline"
            )


def check_count(metrics: Mapping[str, Metric], count: int) -> None:
    """Raise ValueError where a metric needs more images than there are."""
    for metric in metrics.values():
        if count < metric.least_images:
            raise ValueError(
                f"{metric.names[0]} needs at least {metric.least_images} images, but there are {count}; set num_images, or "
                "choose another metric"
            )
