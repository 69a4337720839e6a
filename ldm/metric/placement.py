"""Metrics for models that are told where something is to be: label maps and layouts, on data whose colours are known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from PIL import ImageColor
from torch import Tensor

from ldm.batch import Fields, tensor_field
from ldm.metric.per_image import PerImageMetric

DIFFERENT = 0.5
"""Difference from the colour of the canvas, of red, green or blue in [-1, 1], from which on a pixel is part of a drawing."""


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
        self.colors = torch.tensor([ImageColor.getrgb(color) for color in colors]) / 127.5 - 1.0

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
    """The mean over the boxes asked for of the intersection over union with what stands there.

    What stands in a box is the smallest box around all pixels in it, and around it by a quarter of its size, whose colour is
    not that of the canvas, which is the median over the edge of the image.
    """

    inputs = ("boxes",)

    def __init__(self) -> None:
        super().__init__(["layout_iou"])

    def measure(self, images: Tensor, fields: Fields) -> Mapping[str, Tensor]:
        """Return the mean over the boxes of each image that has some; see `PerImageMetric.measure`."""
        found = []
        for image, rows in zip(images, tensor_field(fields, "boxes").to(images), strict=True):
            boxes = rows[rows[:, 0] >= 0, 1:]
            if len(boxes):
                drawn = drawn_pixels(image)
                found.append(torch.stack([_overlap(drawn, box) for box in boxes]).mean())
        return {"layout_iou": torch.stack(found) if found else images.new_zeros(0)}


def drawn_pixels(image: Tensor) -> Tensor:
    """Return which pixels `(H, W)` of an image `(3, H, W)` in [-1, 1] have another colour than the canvas."""
    edge = torch.cat([image[:, 0], image[:, -1], image[:, :, 0], image[:, :, -1]], 1)
    return (image - edge.median(1).values[:, None, None]).abs().amax(0) > DIFFERENT


def _overlap(drawn: Tensor, box: Tensor) -> Tensor:
    """Return the intersection over union of a box, x0, y0, x1, y1 in [0, 1], and of what is drawn there."""
    size = box.new_tensor([drawn.shape[1], drawn.shape[0]] * 2)
    x0, y0, x1, y1 = box * size
    margin = torch.stack([x1 - x0, y1 - y0]) / 4
    left, top = (torch.stack([x0, y0]) - margin).round().clamp(min=0).int().tolist()
    right, bottom = (torch.stack([x1, y1]) + margin).round().int().tolist()
    rows, columns = drawn[top:bottom, left:right].nonzero(as_tuple=True)
    if not len(rows):
        return box.new_zeros(())
    found = torch.stack([columns.min() + left, rows.min() + top, columns.max() + left + 1, rows.max() + top + 1]).to(
        box
    )
    asked = torch.stack([x0, y0, x1, y1])
    sides = torch.minimum(found[2:], asked[2:]) - torch.maximum(found[:2], asked[:2])
    common = sides.clamp(min=0).prod()
    return common / ((found[2:] - found[:2]).prod() + (asked[2:] - asked[:2]).prod() - common)
