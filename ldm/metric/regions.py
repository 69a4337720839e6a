"""Find the icons in images with a canvas of one colour: their places and their colours.

These functions judge generated images by what was asked for, whose truth is known: boxes, regions and colours.
"""

from __future__ import annotations

import torch
from torch import Tensor

EDGE = 1
"""Pixels at each edge of an image that are taken for canvas."""


def canvas_colors(images: Tensor) -> Tensor:
    """Return the colour of the canvas of each image: for each channel the median over the pixels at the edges.

    Args:
        images: `(B, 3, H, W)`.

    Returns:
        `(B, 3)`.
    """
    rows = torch.cat([images[:, :, :EDGE].flatten(2), images[:, :, -EDGE:].flatten(2)], 2)
    columns = torch.cat([images[:, :, :, :EDGE].flatten(2), images[:, :, :, -EDGE:].flatten(2)], 2)
    pixels = torch.cat([rows, columns], 2).sort(2).values  # torch.median has no deterministic way on GPUs
    return pixels[:, :, (pixels.shape[2] - 1) // 2]


def foreground(images: Tensor, canvas: Tensor, palette: Tensor) -> Tensor:
    """Return which pixels an icon covers by about half or more: those nearer to a colour of icons than to the canvas.

    Args:
        images: `(B, 3, H, W)`.
        canvas: Colour of the canvas of each image, `(B, 3)`.
        palette: Colours that icons can have, `(P, 3)`.

    Returns:
        `(B, H, W)` bool.
    """
    pixels = images.permute(0, 2, 3, 1)
    from_canvas = (pixels - canvas[:, None, None]).square().sum(3)
    from_icons = torch.stack([(pixels - color).square().sum(3) for color in palette]).amin(0)
    return from_icons < from_canvas


def bounding_boxes(masks: Tensor) -> Tensor:
    """Return the smallest box around the true pixels of each mask.

    Args:
        masks: `(B, H, W)` bool.

    Returns:
        x0, y0, x1, y1 in [0, 1], `(B, 4)`; zeros where no pixel is true.
    """
    ends = []
    for seen in (masks.any(1), masks.any(2)):
        length = seen.shape[1]
        first = seen.int().argmax(1)
        last = length - seen.flip(1).int().argmax(1)
        ends.append(torch.stack([first, last], 1) / length * seen.any(1, keepdim=True))
    return torch.stack([ends[0][:, 0], ends[1][:, 0], ends[0][:, 1], ends[1][:, 1]], 1)


def found_boxes(mask: Tensor, wanted: Tensor) -> Tensor:
    """Return where the icons that were asked for stand in an image.

    Each true pixel belongs to the nearest of the boxes that were asked for. Around the pixels of each is its box.

    Args:
        mask: Which pixels differ from the canvas, `(H, W)` bool.
        wanted: x0, y0, x1, y1 in [0, 1] of the boxes that were asked for, `(N, 4)`.

    Returns:
        x0, y0, x1, y1 in [0, 1], `(N, 4)`; zeros where no pixel belongs to a box.
    """
    height, width = mask.shape
    y = (torch.arange(height, device=mask.device) + 0.5)[:, None] / height
    x = (torch.arange(width, device=mask.device) + 0.5)[None] / width
    x0, y0, x1, y1 = (part[:, None, None] for part in wanted.to(mask.device).unbind(1))
    across, down = (x - x.clamp(x0, x1)) * width, (y - y.clamp(y0, y1)) * height
    nearest = (across.square() + down.square()).argmin(0)
    owners = torch.arange(len(wanted), device=mask.device)[:, None, None]
    return bounding_boxes((nearest == owners) & mask)


def box_iou(first: Tensor, second: Tensor) -> Tensor:
    """Return the intersection over union of pairs of boxes.

    Args:
        first: x0, y0, x1, y1, `(N, 4)`.
        second: The same of the other box of each pair, `(N, 4)`.

    Returns:
        `(N,)` in [0, 1].
    """
    corners = torch.maximum(first[:, :2], second[:, :2]), torch.minimum(first[:, 2:], second[:, 2:])
    common = (corners[1] - corners[0]).clamp(min=0).prod(1)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(1) for boxes in (first, second)]
    return common / (areas[0] + areas[1] - common).clamp(min=1e-12)
