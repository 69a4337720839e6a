"""Between tensors and pictures."""

from __future__ import annotations

import math

import numpy as np
import torch
from PIL import Image
from torch import Tensor


def to_tensor(picture: Image.Image) -> Tensor:
    """RGB picture -> `(3, H, W)` fp32 in [-1, 1]."""
    return from_levels(torch.from_numpy(np.array(picture)).permute(2, 0, 1))


def from_levels(levels: Tensor) -> Tensor:
    """uint8 levels -> fp32 in [-1, 1], of the same shape and contiguous."""
    return levels.to(torch.float32, memory_format=torch.contiguous_format).div_(127.5).sub_(1.0)


def to_levels(images: Tensor) -> Tensor:
    """Images in [-1, 1] -> uint8 levels of the same shape; values outside are clipped."""
    return images.add(1.0).mul(127.5).round().clamp(0, 255).byte()


def to_picture(image: Tensor) -> Image.Image:
    """`(3, H, W)` in [-1, 1] -> RGB picture."""
    return Image.fromarray(to_levels(image).permute(1, 2, 0).cpu().numpy())


def grid(images: Tensor, *, columns: int | None = None, gap: int = 2, wide: int = 512) -> Image.Image:
    """Images `(N, 3, H, W)` in [-1, 1] side by side on white.

    columns  images a row; None: about as many as rows
    wide     a narrower grid is enlarged by a whole factor, without smoothing, to at most about this many pixels
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
