"""Embeddings of scalars."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def sinusoidal(steps: Tensor, width: int, max_period: float = 10_000.0) -> Tensor:
    """Cosines and sines of `steps` at geometrically spaced frequencies.

    steps `(B,)`, in units of discrete time steps; result `(B, width)`, cosines first, fp32.

    Paper: Vaswani et al., 2017, section 3.5, arXiv:1706.03762; order as in Ho et al., 2020, arXiv:2006.11239.
    """
    half = width // 2
    frequencies = torch.exp(-math.log(max_period) * torch.arange(half, device=steps.device) / half)
    angles = steps.float()[:, None] * frequencies[None]
    return torch.cat([angles.cos(), angles.sin()], dim=-1)
