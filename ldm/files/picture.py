"""Conversions between tensors and pictures of Pillow."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor


def to_tensor(picture: Image.Image) -> Tensor:
    """Convert an RGB picture to a tensor `(3, H, W)` in float32, in [-1, 1]."""
    return from_levels(torch.from_numpy(np.array(picture)).permute(2, 0, 1))


def from_levels(levels: Tensor) -> Tensor:
    """Convert 8-bit levels `(...)` in uint8 to float32 in [-1, 1], of the same shape and contiguous."""
    return levels.to(torch.float32, memory_format=torch.contiguous_format).div_(127.5).sub_(1.0)


def to_levels(images: Tensor) -> Tensor:
    """Convert images `(...)` in [-1, 1] to 8-bit levels in uint8, of the same shape; values outside are clipped."""
    return images.add(1.0).mul(127.5).round().clamp(0, 255).byte()


def to_picture(image: Tensor) -> Image.Image:
    """Convert an image `(3, H, W)` in [-1, 1] to an RGB picture."""
    return Image.fromarray(to_levels(image).permute(1, 2, 0).cpu().numpy())


def stack_padded(images: Sequence[Tensor], size: Sequence[int]) -> Tensor:
    """Stack images of several sizes, each in the middle of a white area that is as high and wide as the largest.

    Args:
        images: Images `(3, H, W)` in [-1, 1].
        size: Height and width of the area where there are no images.

    Returns:
        All of them, `(N, 3, H, W)`.
    """
    if not images:
        return torch.empty(0, 3, *size)
    height, width = (max(image.shape[side] for image in images) for side in (1, 2))
    padded = []
    for image in images:
        down, right = height - image.shape[1], width - image.shape[2]
        padded.append(F.pad(image, (right // 2, right - right // 2, down // 2, down - down // 2), value=1.0))
    return torch.stack(padded)


def grid(images: Tensor, *, columns: int | None = None, gap: int = 2, wide: int = 512) -> Image.Image:
    """Draw images side by side on white.

    Args:
        images: `(N, 3, H, W)` in [-1, 1].
        columns: Images in a row; None: about as many as there are rows.
        gap: Pixels between images and around them.
        wide: Width in pixels; a narrower grid is enlarged by a whole factor, without smoothing, to about this much at most.

    Returns:
        An RGB picture.
    """
    count, _, height, width = images.shape
    columns = columns or math.ceil(math.sqrt(count))
    factor = max(1, wide // (columns * width))
    rows = math.ceil(count / columns)
    tile_width, tile_height = width * factor + gap, height * factor + gap
    sheet = Image.new("RGB", (columns * tile_width + gap, rows * tile_height + gap), "white")
    for index, image in enumerate(images):
        tile = to_picture(image).resize((width * factor, height * factor), Image.Resampling.NEAREST)
        sheet.paste(tile, (gap + index % columns * tile_width, gap + index // columns * tile_height))
    return sheet
