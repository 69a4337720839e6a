"""Metrics for models that are told where something is to be: label maps and layouts, on data whose colours are known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from PIL import ImageColor
from torch import Tensor

from ldm.batch import Fields, tensor_field
from ldm.metric.per_image import PerImageMetric
from ldm.metric.regions import box_iou, canvas_colors, foreground, found_boxes


class RegionColors(PerImageMetric):
    """The share of pixels whose colour is nearest to that of their region in the label map.

    Args:
        colors: The colour of each class of the label map, in their order, like "#ff8c00". Regions of other classes do not count.

    Raises:
        ValueError: Where there are no two colours.
    """

    inputs = ("segmentation",)

    def __init__(self, colors: Sequence[str]) -> None:
        super().__init__(["region_color_accuracy"])
        if len(colors) < 2:
            raise ValueError(f"the colours of regions are told from one another; got {list(colors)}, give two or more")
        self.colors = rgb(colors)

    def measure(self, images: Tensor, fields: Fields) -> Mapping[str, Tensor]:
        """Return the share in each image; see `PerImageMetric.measure`."""
        classes = tensor_field(fields, "segmentation").to(images.device)
        colors = self.colors.to(images)
        distances = (images[:, None] - colors[None, :, :, None, None]).square().sum(2)
        counts = classes < len(colors)
        right = (distances.argmin(1) == classes) & counts
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


def rgb(colors: Sequence[str]) -> Tensor:
    """Return colours like "#ff8c00" as red, green and blue, `(P, 3)` in [-1, 1]."""
    return torch.tensor([ImageColor.getrgb(color) for color in colors]) / 127.5 - 1.0
