"""The Inception score: how surely a classifier names generated images, and how many classes it finds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ldm.metric.base import FeatureMetric
from ldm.metric.statistics import Reference
from ldm.options.rule import COUNT, check
from ldm.pretrained.extractor import ClassifyingExtractor


class InceptionScore(FeatureMetric):
    """exp(mean KL(p(y|x) | p(y))) over generated images; higher is better, and 1 is the worst. No real images are needed.

    It is the mean over parts of the images, with its standard deviation over parts beside it. It is called `inception_score` for
    Inception only, otherwise with the extractor's name behind it. Images are shuffled as torch-fidelity shuffles them, so that
    the numbers agree.

    Args:
        extractor: A network that classifies.
        splits: Number of parts.
        seed: Seed of the order of images.

    References:
        Salimans et al., 2016, section 4, arXiv:1606.03498.
    """

    published_on = "inception"
    needs_reference = False

    def __init__(self, extractor: ClassifyingExtractor, *, splits: int = 10, seed: int = 2020) -> None:
        check("metric.inception_score.splits", splits, COUNT)
        super().__init__(extractor)
        self.classifier = extractor
        self.splits = splits
        self.seed = seed

    @property
    def names(self) -> Sequence[str]:
        """Return the names of the score and of its standard deviation over parts."""
        return [self.named("inception_score"), self.named("inception_score_std")]

    @property
    def least_images(self) -> int:
        """Return two for each part."""
        return 2 * self.splits

    @property
    def wanted_images(self) -> int:
        """Return the number of images of published scores."""
        return 50_000

    def too_few(self, count: int) -> str:
        """See `Metric.too_few`."""
        return "is lower for fewer images; published scores are of 50,000"

    @torch.no_grad()
    def measure(self, generated: Tensor, reference: Reference | None) -> dict[str, float]:
        """Return the mean over parts and its standard deviation; see `FeatureMetric.measure`."""
        self.check_generated(generated)
        count = len(generated)
        order = torch.from_numpy(np.random.RandomState(self.seed).permutation(count))
        logits = self.classifier.class_logits(generated)[order.to(generated.device)].double()
        found = []
        for part in range(self.splits):
            some = logits[part * count // self.splits : (part + 1) * count // self.splits]
            log_p = some.log_softmax(1)
            p = log_p.exp()
            found.append(float((p * (log_p - p.mean(0).log())).sum(1).mean().exp()))
        return dict(zip(self.names, (float(np.mean(found)), float(np.std(found))), strict=True))
