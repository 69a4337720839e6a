"""The share of images that show what their captions say, for data whose true drawings are known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torchmetrics import SumMetric

from ldm.batch import Fields, list_field
from ldm.metric.base import ADVICE, GenerationMetric, check_finite


class Truth(Protocol):
    """A data set that can be drawn: every drawing is a named tuple of parts that knows its caption."""

    @property
    def drawings(self) -> Sequence[NamedTuple]:
        """All drawings; each has a `caption`."""

    def images(self, drawings: Sequence[Any]) -> Tensor:
        """Return the drawings, `(N, 3, H, W)` in [-1, 1]."""


class CaptionAccuracy(GenerationMetric):
    """The share of images whose nearest drawing, by squared error over all drawings, is the caption's; whole and by part.

    Args:
        truth: Gives all drawings and their captions.
    """

    inputs = ("caption",)

    def __init__(self, truth: Truth) -> None:
        drawings = list(truth.drawings)
        self.parts: Sequence[str] = drawings[0]._fields
        self.place = {drawing.caption: index for index, drawing in enumerate(drawings)}  # type: ignore[attr-defined]
        values = [sorted(set(column)) for column in zip(*drawings, strict=True)]
        codes = [[column.index(value) for value, column in zip(drawing, values, strict=True)] for drawing in drawings]
        self.codes = torch.tensor(codes)
        self.templates = truth.images(drawings).flatten(1).double()
        self.sums = [SumMetric() for _ in range(len(self.parts) + 2)]

    @property
    def names(self) -> Sequence[str]:
        """Names of the scores: of all parts together, and of each."""
        return ["caption_accuracy", *(f"{part}_accuracy" for part in self.parts)]

    @property
    def reference_name(self) -> None:
        """None: nothing is needed of real images."""
        return None

    def to(self, device: torch.device) -> None:
        """Move to a device."""
        self.templates = self.templates.to(device)
        self.codes = self.codes.to(device)
        for metric in self.sums:
            metric.to(device)

    def update_reference(self, images: Tensor) -> None:
        """Do nothing with real images."""

    def reference(self) -> dict[str, Tensor]:
        """Return no sums, since there are none."""
        return {}

    def set_reference(self, sums: dict[str, Tensor]) -> None:
        """Do nothing: there are no sums."""

    def update(self, images: Tensor, fields: Fields) -> None:
        """Add generated images `(B, 3, H, W)` in [-1, 1] and the fields, with captions, that they were made for."""
        captions = list_field(fields, "caption")
        check_finite(images, "generated images", advice=ADVICE)
        unknown = [caption for caption in captions if caption not in self.place]
        if unknown:
            raise ValueError(
                f"no drawing has the caption {unknown[0]!r}; measure caption_accuracy on captions of the data set"
            )
        wanted = self.codes[[self.place[caption] for caption in captions]]
        right = self.codes[self.nearest(images)] == wanted
        counts = [right.all(1), *right.unbind(1), torch.ones_like(right[:, 0])]
        for metric, count in zip(self.sums, counts, strict=True):
            metric.update(count.float().sum())

    def nearest(self, images: Tensor) -> Tensor:
        """Return the index of each image's nearest drawing, `(B,)`: |image - template|^2 without the term common to all."""
        flat = images.to(self.templates).flatten(1)
        if flat.shape[1] != self.templates.shape[1]:
            raise ValueError(
                f"drawings have {self.templates.shape[1]} values, images {flat.shape[1]}; use the same size"
            )
        return (self.templates.square().sum(1) - 2 * flat @ self.templates.T).argmin(1)

    def compute(self) -> dict[str, float]:
        """Return the shares of right images, whole and by part, over all images since the last call."""
        *right, count = (float(metric.compute()) for metric in self.sums)
        for metric in self.sums:
            metric.reset()
        return {name: value / max(count, 1.0) for name, value in zip(self.names, right, strict=True)}
