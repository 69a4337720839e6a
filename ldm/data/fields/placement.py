"""The part of an original picture that an image shows, by which all that lies on the picture moves with it."""

from __future__ import annotations

from typing import NamedTuple

import torch
from PIL import Image, ImageOps
from torch import Tensor

from ldm.batch import Size
from ldm.data.decode import Header, in_proportion


class Placement(NamedTuple):
    """The resize, crop and flip that an image has been through.

    Attributes:
        original: Size of the picture before.
        cover: Size to which it was resized, so that it covers the result.
        top: First row of the resized picture that is shown.
        left: First column of the resized picture that is shown.
        size: Size of the result.
        flipped: Whether the result is mirrored, left to right.
    """

    original: Size
    cover: Size
    top: int
    left: int
    size: Size
    flipped: bool = False

    @property
    def geometry(self) -> Tensor:
        """The field `geometry`, `(6,)` int64: original size, top and left of the crop in the resized picture, final size."""
        return torch.tensor([*self.original, self.top, self.left, *self.size])

    @property
    def box(self) -> tuple[float, float, float, float]:
        """The part that is shown: left, top, right, bottom in [0, 1] of the picture."""
        (height, width), (rows, columns) = self.cover, self.size
        return self.left / width, self.top / height, (self.left + columns) / width, (self.top + rows) / height

    def picture(self, picture: Image.Image, resample: Image.Resampling) -> Image.Image:
        """Return the same part of another picture of the same scene, whatever its resolution, in the size of the result."""
        left, top, right, bottom = self.box
        part = (
            left * picture.width,
            top * picture.height,
            min(right * picture.width, picture.width),
            min(bottom * picture.height, picture.height),
        )
        cut = picture.resize((self.size.width, self.size.height), resample, box=part)
        return ImageOps.mirror(cut) if self.flipped else cut

    def boxes(self, boxes: Tensor) -> Tensor:
        """Return boxes in the result, clipped to it; those that lie outside are dropped.

        Args:
            boxes: Class, then x0, y0, x1, y1 in [0, 1] of the original picture, `(N, 5)`.

        Returns:
            The same of the result, `(M, 5)` with M <= N.
        """
        left, top, right, bottom = self.box
        classes, corners = boxes[:, :1], boxes[:, 1:]
        start, extent = corners.new_tensor([left, top] * 2), corners.new_tensor([right - left, bottom - top] * 2)
        x0, y0, x1, y1 = ((corners - start) / extent).unbind(1)
        if self.flipped:
            x0, x1 = 1 - x1, 1 - x0
        placed = torch.cat([classes, torch.stack([x0, y0, x1, y1], 1).clamp(0.0, 1.0)], 1)
        return placed[(placed[:, 3] > placed[:, 1]) & (placed[:, 4] > placed[:, 2])]

    def fits(self, width: int, height: int) -> bool:
        """Return whether a picture of this size can be one of the same scene: its sides are in proportion, to a pixel."""
        return in_proportion(Header(self.original.width, self.original.height), width, height)
