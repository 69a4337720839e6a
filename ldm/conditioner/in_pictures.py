"""The conditions of images as pictures, for people."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ldm.batch import Fields, Size, tensor_field
from ldm.conditioner.base import Conditioner

CANVAS = 0.75
"""Light gray, in [-1, 1], on which boxes are drawn, since the colours of the first classes are dark."""

HOLE = (1.0, -1.0, 1.0)
"""Magenta, the colour of what is masked, which hardly any image has."""

LINE = 64
"""Pixels of the image's shorter side for each pixel of the width of a box's lines."""


def in_pictures(fields: Fields, count: int, conditioner: Conditioner, size: Sequence[int]) -> Tensor:
    """Return the conditions of images that are pictures, one below the other.

    Args:
        fields: The fields of the images, on the CPU.
        count: Their number.
        conditioner: The conditioner that reads some of the fields.
        size: Height and width of the images.

    Returns:
        Pictures `(count, 3, K * height, width)` in [-1, 1], where K is the number of those fields that are pictures: image, mask,
        low-resolution image, label map, depth and boxes.
    """
    size = Size(*size)
    conditions = [draw(fields, size) for name, draw in DRAWN.items() if name in conditioner.inputs and name in fields]
    pictures = [F.interpolate(picture.float(), size) for picture in conditions]
    return torch.cat([torch.empty(count, 3, 0, size.width), *pictures], dim=2)


def class_colors(classes: Tensor) -> Tensor:
    """Return the colours of classes `(...)` int64 in [-1, 1], `(..., 3)`, those of the label maps of Pascal VOC: 0 is black.

    Bit 3 k of a number is the bit 7 - k of red, the next one that of green, the one after that of blue. Everingham et al., 2015,
    "The Pascal Visual Object Classes Challenge: A Retrospective".
    """
    color = torch.zeros(*classes.shape, 3, dtype=torch.long)
    channels = torch.arange(3)
    for place in range(8):
        color |= ((classes[..., None] >> (3 * place + channels)) & 1) << (7 - place)
    return color / 127.5 - 1.0


def _image(fields: Fields, size: Size) -> Tensor:
    return tensor_field(fields, "image")


def _masked(fields: Fields, size: Size) -> Tensor:
    mask = tensor_field(fields, "mask")
    image = tensor_field(fields, "image") if "image" in fields else torch.ones_like(mask)
    return torch.where(mask > 0, torch.tensor(HOLE)[:, None, None], image)


def _low_resolution(fields: Fields, size: Size) -> Tensor:
    return tensor_field(fields, "low_resolution")


def _segmentation(fields: Fields, size: Size) -> Tensor:
    return class_colors(tensor_field(fields, "segmentation")).movedim(-1, 1)


def _depth(fields: Fields, size: Size) -> Tensor:
    return tensor_field(fields, "depth").expand(-1, 3, -1, -1)


def _boxes(fields: Fields, size: Size) -> Tensor:
    """Draw the outline of each box in the colour of its class, counted from 1; earlier boxes lie above later ones."""
    boxes = tensor_field(fields, "boxes")
    pictures = torch.full((len(boxes), 3, *size), CANVAS)
    width = max(1, min(size) // LINE)
    scale = torch.tensor([size.width, size.height] * 2)
    corners = (boxes[..., 1:].clamp(0.0, 1.0) * scale).round().long()
    colors = class_colors(boxes[..., 0].long() + 1)
    for row, place in reversed((boxes[..., 0] >= 0).nonzero().tolist()):
        left, top, right, bottom = corners[row, place].tolist()
        outline = torch.zeros(*size, dtype=torch.bool)
        outline[top:bottom, left:right] = True
        outline[top + width : max(bottom - width, 0), left + width : max(right - width, 0)] = False
        pictures[row][:, outline] = colors[row, place][:, None]
    return pictures


DRAWN: dict[str, Callable[[Fields, Size], Tensor]] = {
    "image": _image,
    "mask": _masked,
    "low_resolution": _low_resolution,
    "segmentation": _segmentation,
    "depth": _depth,
    "boxes": _boxes,
}
"""Name of a field -> a function that draws it for images of a size, `(B, 3, h, w)` in [-1, 1]."""
