"""The share of images that show the class that was asked for, for data whose true drawings are known."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from ldm.batch import Fields, Size, tensor_field
from ldm.metric.caption import Templates, Truth
from ldm.metric.per_image import PerImageMetric


class ClassTruth(Truth, Protocol):
    """A data set that can be drawn, and whose drawings have classes."""

    def label(self, drawing: Any) -> int:
        """Return the number of the class of a drawing."""


class LabelAccuracy(PerImageMetric):
    """The share of images whose nearest drawing, by squared error over all drawings, is of the class asked for.

    An image of chance has the share 1 / (number of classes) on average.

    Args:
        truth: Gives all drawings and their classes.
    """

    inputs = ("label",)

    def __init__(self, truth: ClassTruth) -> None:
        super().__init__(["label_accuracy"])
        drawings = list(truth.drawings)
        self.labels = torch.tensor([truth.label(drawing) for drawing in drawings])
        self.templates = Templates(truth.images(drawings))

    @property
    def size(self) -> Size:
        """See `Metric.size`."""
        return self.templates.size

    def measure(self, images: Tensor, fields: Fields) -> dict[str, Tensor]:
        """Return 1 for images that are right and 0 for others, `(B,)`; see `PerImageMetric.measure`."""
        wanted = tensor_field(fields, "label").to(images.device)
        self.labels = self.labels.to(images.device)
        return {"label_accuracy": self.labels[self.templates.nearest(images)] == wanted}
