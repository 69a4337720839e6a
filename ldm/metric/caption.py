"""The share of images that show what their captions say, for data whose true drawings are known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from ldm.batch import Fields, Size, list_field
from ldm.metric.per_image import PerImageMetric
from ldm.pretrained.precision import float64


class Truth(Protocol):
    """A data set that can be drawn: every drawing is a named tuple of parts that knows its caption."""

    @property
    def drawings(self) -> Sequence[NamedTuple]:
        """All drawings; each has a `caption`."""

    def images(self, drawings: Sequence[Any]) -> Tensor:
        """Return the drawings, `(N, 3, H, W)` in [-1, 1]."""


class CaptionAccuracy(PerImageMetric):
    """The share of images whose nearest drawing, by squared error over all drawings, is the caption's; whole and by part.

    Args:
        truth: Gives all drawings and their captions.
    """

    inputs = ("caption",)

    def __init__(self, truth: Truth) -> None:
        drawings = list(truth.drawings)
        parts: Sequence[str] = drawings[0]._fields
        super().__init__(["caption_accuracy", *(f"{part}_accuracy" for part in parts)])
        self.place = {drawing.caption: index for index, drawing in enumerate(drawings)}  # type: ignore[attr-defined]
        self.codes = part_codes(drawings)
        self.templates = Templates(truth.images(drawings))

    @property
    def size(self) -> Size:
        """See `Metric.size`."""
        return self.templates.size

    def measure(self, images: Tensor, fields: Fields) -> dict[str, Tensor]:
        """Return whether images are right, whole and by part; see `PerImageMetric.measure`."""
        captions = list_field(fields, "caption")
        unknown = [caption for caption in captions if caption not in self.place]
        if unknown:
            raise ValueError(
                f"no drawing has the caption {unknown[0]!r}; measure caption_accuracy on captions of the data set"
            )
        self.codes = self.codes.to(images.device)
        wanted = torch.tensor([self.place[caption] for caption in captions], device=images.device)
        right = self.codes[self.templates.nearest(images).to(images.device)] == self.codes[wanted]
        return dict(zip(self.names, [right.all(1), *right.unbind(1)], strict=True))


class Templates:
    """Drawings with which images are compared.

    Args:
        images: The drawings, `(N, 3, H, W)` in [-1, 1].
    """

    def __init__(self, images: Tensor) -> None:
        self.size = Size(*images.shape[-2:])
        self.values = images.flatten(1).double()

    def nearest(self, images: Tensor) -> Tensor:
        """Return the index of each image's nearest drawing, `(B,)`: |image - template|^2 without the term common to all.

        Args:
            images: `(B, 3, H, W)` in [-1, 1].

        Raises:
            ValueError: Where the sizes differ.
        """
        flat = float64(images).flatten(1)
        self.values = self.values.to(flat.device)
        if flat.shape[1] != self.values.shape[1]:
            raise ValueError(f"drawings have {self.values.shape[1]} values, images {flat.shape[1]}; use the same size")
        return (self.values.square().sum(1) - 2 * flat @ self.values.T).argmin(1)


def part_codes(drawings: Sequence[NamedTuple]) -> Tensor:
    """Return the number of each part of each drawing among the values that this part has, `(N, P)` int64."""
    values = [sorted(set(column)) for column in zip(*drawings, strict=True)]
    return torch.tensor(
        [[column.index(value) for value, column in zip(drawing, values, strict=True)] for drawing in drawings]
    )
