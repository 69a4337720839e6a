"""The loss that trains a denoiser."""

from __future__ import annotations

import torch
from torch import Tensor

from ldm.batch import Condition
from ldm.diffusion.denoiser import Denoiser
from ldm.diffusion.times import Times
from ldm.diffusion.weighting import Weighting


class DenoisingLoss:
    """Weighted squared error between the network's output and its target at random times.

    Paper: Rombach et al., 2022, eq. 3, arXiv:2112.10752.
    """

    def __init__(self, times: Times, weighting: Weighting) -> None:
        self.times = times
        self.weighting = weighting

    def __call__(self, denoiser: Denoiser, x: Tensor, condition: Condition) -> Tensor:
        """x `(B, C, h, w)`, clean latents -> loss of each, `(B,)`. Draws times and noise from torch's generator."""
        t = self.times.sample(x.shape[0], x.device)
        z = torch.randn_like(x)
        alpha, sigma = (part[:, None, None, None] for part in denoiser.schedule.alpha_sigma(t))
        output = denoiser.backbone(alpha * x + sigma * z, t, condition).float()
        error = (output - denoiser.prediction.target(x, z, alpha, sigma)).square().flatten(1).mean(1)
        return self.weighting.weight(denoiser.schedule.log_snr(t)) * error
