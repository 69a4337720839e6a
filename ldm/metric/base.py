"""The base classes of metrics of generated images."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from ldm.batch import Size
from ldm.metric.extraction import check_finite
from ldm.metric.statistics import ROUNDING, Reference
from ldm.pretrained.extractor import Extractor


class CollapsedFeaturesError(ValueError):
    """The features of all images are the same, so that a distance between distributions says nothing."""


class Metric(ABC):
    """The base class of metrics, which give named numbers of a set of generated images.

    A metric is either a `FeatureMetric` or a `PerImageMetric`. It keeps no images: `ldm.metric.suite.MetricSuite` collects what
    it measures.
    """

    inputs: tuple[str, ...] = ()
    """Names of the fields that it reads beside the images."""

    @property
    @abstractmethod
    def names(self) -> Sequence[str]:
        """Names of its numbers."""

    @property
    def least_images(self) -> int:
        """The fewest images that it gives numbers for: of those generated, and of real ones if it needs any."""
        return 1

    @property
    def wanted_images(self) -> int:
        """The fewest images of which its numbers may be compared with those of other sets of images."""
        return self.least_images

    @property
    def size(self) -> Size | None:
        """The only size of images that it measures; None: it measures images of all sizes."""
        return None

    def warning(self, count: int) -> str | None:
        """Return a warning where a number of images is too small; None where it is large enough.

        Args:
            count: Number of images that are measured.
        """
        if count >= self.wanted_images:
            return None
        return (
            f"{self.names[0]} is measured on {count} images, and {self.too_few(count)}: compare it with others of the same "
            "images alone, and not with published ones"
        )

    def too_few(self, count: int) -> str:
        """Return why there is a warning, as a part of its sentence.

        Args:
            count: Number of images, fewer than `wanted_images`.
        """
        return f"wants {self.wanted_images} or more"


class FeatureMetric(Metric):
    """The base class of metrics that look at the features of all generated images together.

    Args:
        extractor: Network that gives the features. Metrics whose extractors have the same signature share one pass of it.
        real_features: The most real images whose single features it looks at; 0 where mean and covariance of all are enough.
    """

    published_on: str = ""
    """Name of the extractor with which the metric is published; with another one, scores have another name."""

    needs_reference: bool = True
    """True where generated images are compared with real ones."""

    def __init__(self, extractor: Extractor, *, real_features: int = 0) -> None:
        self.extractor = extractor
        self.real_features = real_features

    @abstractmethod
    def measure(self, generated: Tensor, reference: Reference | None) -> dict[str, float]:
        """Return name -> number.

        Args:
            generated: Features of generated images, `(N, D)` float32, in the order of the numbers of the images.
            reference: The statistics of real images; None only where `needs_reference` is False.

        Raises:
            CollapsedFeaturesError: Where all features are the same.
            ValueError: Where there are too few images, or the reference lacks what is needed.
        """

    def named(self, published: str) -> str:
        """Return the name of a score: the published one for the published extractor, otherwise with the extractor's behind."""
        return published if self.extractor.name == self.published_on else f"{published}_{self.extractor.name}"

    def check_generated(self, generated: Tensor) -> None:
        """Check features of generated images; each `measure` begins with it.

        Raises:
            CollapsedFeaturesError: Where all features are the same.
            ValueError: Where there are too few images, or features are not finite or of another length.
        """
        count, width = generated.shape
        if count < self.least_images:
            raise ValueError(
                f"{self.names[0]} needs at least {self.least_images} generated images, got {count}; make more, or choose another "
                "metric"
            )
        if width != self.extractor.num_features:
            raise ValueError(
                f"{self.names[0]} got features of length {width}, but {self.extractor.signature} gives "
                f"{self.extractor.num_features}; give features of the same extractor"
            )
        check_finite(generated, "feature vectors", advice="look at the images, and at the extractor's weights")
        low, high = generated.aminmax(dim=0)
        if count > 1 and bool((high - low <= ROUNDING * torch.maximum(high.abs(), low.abs())).all()):
            raise CollapsedFeaturesError(
                f"{self.names[0]} means nothing here: the features of all {count} generated images are the same. Either the "
                "model gives one image for all of them (look at the images), or the weights of the extractor are broken"
            )

    def check_reference(self, reference: Reference | None) -> Reference:
        """Return the reference, which is there and fits.

        Raises:
            ValueError: Where it is missing, of another extractor, or of images that all have the same features.
        """
        if reference is None:
            raise ValueError(f"{self.names[0]} compares with real images, but none are known; give a reference")
        if reference.statistics.width != self.extractor.num_features:
            raise ValueError(
                f"the reference is of {reference.statistics.width} features, but {self.extractor.signature} gives "
                f"{self.extractor.num_features}; give one that was made with the same extractor"
            )
        if reference.statistics.collapsed:
            raise ValueError(
                f"{self.names[0]} means nothing here: the features of all real images are the same. Look at the real images, and "
                "at the extractor's weights"
            )
        return reference

    def features_of(self, reference: Reference | None) -> Tensor:
        """Return the features of single real images, `(M, D)`.

        Raises:
            ValueError: Where the reference has statistics alone, or too few features.
        """
        found = self.check_reference(reference).features
        if found is None:
            raise ValueError(
                f"{self.names[0]} needs features of single real images, but the reference holds mean and covariance alone; "
                "give real images in its place, or leave this metric out"
            )
        if len(found) < self.least_images:
            raise ValueError(
                f"{self.names[0]} needs the features of at least {self.least_images} real images, but the reference holds "
                f"{len(found)}; give more real images, or choose another metric"
            )
        return found
