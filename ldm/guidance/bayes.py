"""Bayes' rule: how a gradient of log p changes the clean estimate."""

from __future__ import annotations

import torch
from torch import Tensor

from ldm.guidance.context import GuidanceContext


def bayes(pull: Tensor, t: Tensor, given: GuidanceContext) -> Tensor:
    """Return the change of the clean estimate by Bayes' rule, sigma_t^2 / alpha_t * grad log p(y | x_t).

    For pure noise (alpha_t = 0), which tells nothing about y, it is zero.

    Args:
        pull: Gradient of log p(y | x_t) with respect to x_t, `(B, C, h, w)`.
        t: Timesteps, `(B,)`.
        given: The context of guidance, whose denoiser has the noise schedule.

    Returns:
        The change of the clean estimate, `(B, C, h, w)`.

    References:
        Dhariwal & Nichol, 2021, eq. 14, arXiv:2105.05233.
    """
    alpha, sigma = (part[:, None, None, None] for part in given.denoiser.schedule.alpha_sigma(t))
    return torch.where(alpha > 0, sigma**2 / alpha.clamp(min=1e-6) * pull, 0.0)
