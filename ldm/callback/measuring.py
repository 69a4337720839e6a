"""The base class of callbacks that measure a model at each validation."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import pytorch_lightning as pl

from ldm.metric.base import Metric


class Measuring(pl.Callback, ABC):
    """The base class of callbacks that measure by metrics of generated images.

    Attributes:
        metrics: The metrics.
    """

    metrics: Sequence[Metric]

    @property
    def inputs(self) -> set[str]:
        """Names of the fields that are read beside those of the model."""
        return {name for metric in self.metrics for name in metric.inputs}

    @property
    @abstractmethod
    def logged(self) -> Sequence[str]:
        """Names of all that it logs, as `eval/fid`."""
