"""Metrics for models that are conditioned on where something is to be, on data whose truth is known: maps, layouts, depth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from PIL import ImageColor
from torch import Tensor

from ldm.batch import Fields, tensor_field
from ldm.metric.per_image import PerImageMetric
from ldm.metric.regions import box_iou, canvas_colors, foreground, found_boxes
from ldm.options.rule import Whole, check

SHAPE_SIDE = 96
"""Pixels of the squares in which the shapes of icons are drawn, before they are made as small as a box."""


class ShapeTruth(Protocol):
    """A data set of icons whose shapes are known."""

    def shapes(self, side: int) -> Sequence[Any]:
        """Return the coverage of each pixel by each icon, an array `(h, w)` in [0, 1] of the box around it.

        Args:
            side: Height and width in pixels of the square in which each is drawn; the box is a part of it.
        """


class RegionColors(PerImageMetric):
    """The share of pixels whose colour is nearest to that of their region in the label map.

    Args:
        colors: The colours of classes of the label map, in the order of their numbers, like "#ff8c00".
        first_class: Number of the class of the first colour. Regions of classes without a colour do not count.

    Raises:
        ValueError: Where there are no two colours.
    """

    inputs = ("segmentation",)

    def __init__(self, colors: Sequence[str], *, first_class: int = 0) -> None:
        super().__init__(["region_color_accuracy"])
        if len(colors) < 2:
            raise ValueError(f"the colours of regions are compared; got {list(colors)}, give two or more")
        check("metric.first_class", first_class, Whole(0))
        self.colors = rgb(colors)
        self.first_class = first_class

    def measure(self, images: Tensor, fields: Fields) -> Mapping[str, Tensor]:
        """Return the share in each image; see `PerImageMetric.measure`."""
        numbers = tensor_field(fields, "segmentation").to(images.device) - self.first_class
        colors = self.colors.to(images)
        distances = (images[:, None] - colors[None, :, :, None, None]).square().sum(2)
        counts = (numbers >= 0) & (numbers < len(colors))
        right = (distances.argmin(1) == numbers) & counts
        some = counts.flatten(1).any(1)
        return {"region_color_accuracy": right[some].flatten(1).sum(1) / counts[some].flatten(1).sum(1)}


class LayoutIoU(PerImageMetric):
    """The mean over the boxes asked for of the intersection over union with what stands there; see `found_boxes`.

    Args:
        colors: The colours that what is drawn can have, like "#ff8c00".
    """

    inputs = ("boxes",)

    def __init__(self, colors: Sequence[str]) -> None:
        super().__init__(["layout_iou"])
        self.colors = rgb(colors)

    def measure(self, images: Tensor, fields: Fields) -> Mapping[str, Tensor]:
        """Return the mean over the boxes of each image that has some; see `PerImageMetric.measure`."""
        drawn = foreground(images, canvas_colors(images), self.colors.to(images))
        found = []
        for mask, rows in zip(drawn, tensor_field(fields, "boxes").to(images), strict=True):
            boxes = rows[rows[:, 0] >= 0, 1:]
            if len(boxes):
                found.append(box_iou(found_boxes(mask, boxes), boxes).mean())
        return {"layout_iou": torch.stack(found) if found else images.new_zeros(0)}


class LayoutIcons(PerImageMetric):
    """The share of the boxes asked for in which the icon asked for stands, among all icons.

    The shape of what is drawn in a box is compared with that of each icon, stretched to the box; the nearest by squared error
    is taken for what is drawn. Chance is 1 / (number of icons).

    Args:
        truth: Gives the shapes of all icons.
        colors: The colours that what is drawn can have, like "#ff8c00".
    """

    inputs = ("boxes",)

    def __init__(self, truth: ShapeTruth, colors: Sequence[str]) -> None:
        super().__init__(["layout_icon_accuracy"])
        self.shapes = [torch.tensor(shape)[None, None] for shape in truth.shapes(SHAPE_SIDE)]
        self.colors = rgb(colors)
        self._stretched: dict[tuple[int, int], Tensor] = {}

    def measure(self, images: Tensor, fields: Fields) -> Mapping[str, Tensor]:
        """Return the share in each image that has boxes; see `PerImageMetric.measure`."""
        drawn = foreground(images, canvas_colors(images), self.colors.to(images)).cpu().float()
        height, width = drawn.shape[1:]
        found = []
        for mask, rows in zip(drawn, tensor_field(fields, "boxes").cpu(), strict=True):
            right = []
            for label, *corners in rows[rows[:, 0] >= 0].tolist():
                x0, x1 = _pixels(corners[0], corners[2], width)
                y0, y1 = _pixels(corners[1], corners[3], height)
                errors = (self._shapes((y1 - y0, x1 - x0)) - mask[y0:y1, x0:x1]).square().mean((1, 2))
                right.append(int(errors.argmin()) == int(label))
            if right:
                found.append(sum(right) / len(right))
        return {"layout_icon_accuracy": torch.tensor(found)}

    def _shapes(self, size: tuple[int, int]) -> Tensor:
        """Return the shapes of all icons in a box of this height and width, `(N, h, w)`."""
        if size not in self._stretched:
            self._stretched[size] = torch.cat([F.adaptive_avg_pool2d(shape, size)[0] for shape in self.shapes])
        return self._stretched[size]


class DepthIoU(PerImageMetric):
    """The intersection over union of the pixels that are drawn on and those that are nearer than the farthest, the canvas.

    Args:
        colors: The colours that what is drawn can have, like "#ff8c00".
    """

    inputs = ("depth",)

    def __init__(self, colors: Sequence[str]) -> None:
        super().__init__(["depth_iou"])
        self.colors = rgb(colors)

    def measure(self, images: Tensor, fields: Fields) -> Mapping[str, Tensor]:
        """Return the number of each image whose depth map is not flat; see `PerImageMetric.measure`."""
        depth = tensor_field(fields, "depth").to(images.device)[:, 0]
        near = (depth > depth.amin((1, 2), keepdim=True)).flatten(1)
        drawn = foreground(images, canvas_colors(images), self.colors.to(images)).flatten(1)
        some = near.any(1)
        return {"depth_iou": ((near & drawn).sum(1) / (near | drawn).sum(1).clamp(min=1))[some]}


def rgb(colors: Sequence[str]) -> Tensor:
    """Return colours like "#ff8c00" as red, green and blue, `(P, 3)` in [-1, 1]."""
    return torch.tensor([ImageColor.getrgb(color) for color in colors]) / 127.5 - 1.0


def _pixels(start: float, end: float, length: int) -> tuple[int, int]:
    """Return the first pixel between two places in [0, 1], and the one after the last; one pixel at least."""
    first = min(round(start * length), length - 1)
    return first, max(round(end * length), first + 1)
