"""Embeddings of scalars."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def sinusoidal(steps: Tensor, width: int, max_period: float = 10_000.0) -> Tensor:
    """Embed scalars as cosines and sines at geometrically spaced frequencies.

    Args:
        steps: Scalars `(B,)`, in units of discrete time steps.
        width: Length of the embedding; even.
        max_period: Period of the slowest wave, in the same units.

    Returns:
        `(B, width)` in float32, cosines first.

    References:
        Vaswani et al., 2017, section 3.5, arXiv:1706.03762; order as in Ho et al., 2020, arXiv:2006.11239.
    """
    half = width // 2
    frequencies = torch.exp(-math.log(max_period) * torch.arange(half, device=steps.device) / half)
    angles = steps.float()[:, None] * frequencies[None]
    return torch.cat([angles.cos(), angles.sin()], dim=-1)
