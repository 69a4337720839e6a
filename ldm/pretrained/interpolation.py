"""Resizing of maps and images as torch does it, with a gradient that GPUs, too, compute alike each time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ldm.pretrained.precision import float64

Mode = Literal["bilinear", "bicubic", "area"]
"""Means of torch's interpolation, the first two without aliasing; area: the mean over the area of each place."""


def interpolate(maps: Tensor, size: Sequence[int], mode: Mode) -> Tensor:
    """Return resized maps: as torch's interpolation, and where a gradient flows as `interpolate_by_matrices`.

    Args:
        maps: `(B, C, H, W)`.
        size: Height and width of the result.
        mode: The method of interpolation.

    Returns:
        The maps, `(B, C, *size)`.
    """
    if maps.requires_grad and torch.is_grad_enabled():
        return interpolate_by_matrices(maps, size, mode)
    return _interpolated(maps, size, mode)


def interpolate_by_matrices(maps: Tensor, size: Sequence[int], mode: Mode) -> Tensor:
    """Return resized maps, each of whose axes is multiplied by a matrix; the gradient is deterministic, that of torch's is not.

    Args:
        maps: `(B, C, H, W)`.
        size: Height and width of the result.
        mode: The method of interpolation.

    Returns:
        The maps, `(B, C, *size)`.
    """
    values = float64(maps)  # neither autocast nor TF32 rounds these numbers
    down, across = (
        _weights(length, wanted, mode).to(values.device, non_blocking=True)
        for length, wanted in zip(maps.shape[-2:], size, strict=True)
    )
    return (down @ values @ across.T).to(maps)


def _weights(length: int, wanted: int, mode: Mode) -> Tensor:
    """Return the weight of each of the old places in each of the new ones, `(wanted, length)` float64."""
    old = torch.eye(length, dtype=torch.float64)[None, None]
    return _interpolated(old, (wanted, length), mode)[0, 0]


def _interpolated(maps: Tensor, size: Sequence[int], mode: Mode) -> Tensor:
    if mode == "area":
        return F.interpolate(maps, tuple(size), mode=mode)
    return F.interpolate(maps, tuple(size), mode=mode, antialias=True, align_corners=False)
