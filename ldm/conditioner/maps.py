"""Functions on maps, for conditioners that give a map beside x_t."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ldm.batch import Fields, Size, tensor_field
from ldm.pretrained.interpolation import interpolate


def latent_size(fields: Fields) -> Size:
    """Return height and width of the latents of a batch, which the model derives where `inputs` names `latent_size`."""
    height, width = tensor_field(fields, "latent_size")[0].tolist()
    return Size(height, width)


def resized(maps: Tensor, size: Size) -> Tensor:
    """Return maps `(B, C, *size)`, resized by cubic interpolation, without aliasing; as they are where they have that size.

    Args:
        maps: `(B, C, H, W)`.
        size: Height and width of the result.
    """
    if tuple(maps.shape[-2:]) == size:
        return maps
    return interpolate(maps.float(), size, "bicubic")


def area_means(maps: Tensor, size: Size) -> Tensor:
    """Return the means of maps over the area of each place, `(B, C, *size)`.

    Args:
        maps: `(B, C, H, W)`.
        size: Height and width of the result.
    """
    (rows, rest), (columns, remainder) = divmod(maps.shape[-2], size.height), divmod(maps.shape[-1], size.width)
    if rows and columns and not rest and not remainder:
        return F.avg_pool2d(maps, (rows, columns))  # the same, and faster
    return interpolate(maps, size, "area")


def scaled_by_range(maps: Tensor) -> Tensor:
    """Return maps `(B, ...)` whose least value of each image is -1 and whose greatest is 1; 0 where all are equal."""
    low, high = (end.view(-1, *[1] * (maps.ndim - 1)) for end in maps.flatten(1).aminmax(dim=1))
    spread = high - low
    return torch.where(spread > 0, 2.0 * (maps - low) / spread.clamp(min=torch.finfo(maps.dtype).tiny) - 1.0, 0.0)
