"""Bayes' rule for guidance by a gradient."""

from __future__ import annotations

import torch
from torch import Tensor

from ldm.guidance.context import Given


def bayes(pull: Tensor, t: Tensor, given: Given) -> Tensor:
    """What a gradient of log p by x_t adds to the clean estimate; from pure noise, where nothing can be told, nothing."""
    alpha, sigma = (part[:, None, None, None] for part in given.denoiser.schedule.alpha_sigma(t))
    return torch.where(alpha > 0, sigma**2 / alpha.clamp(min=1e-6) * pull, 0.0)
