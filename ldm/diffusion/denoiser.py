"""The denoiser: a network, a schedule, and the meaning of the network's output."""

from __future__ import annotations

from torch import Tensor, nn

from ldm.batch import Condition
from ldm.diffusion.prediction import Prediction
from ldm.diffusion.schedule import Schedule


class Denoiser(nn.Module):
    """Estimates the clean latent from a noisy one. Owns backbone, schedule and prediction.

    backbone  `(x_t, t, condition)` -> prediction of the shape of x_t
    """

    def __init__(self, backbone: nn.Module, schedule: Schedule, prediction: Prediction) -> None:
        super().__init__()
        self.backbone = backbone
        self.schedule = schedule
        self.prediction = prediction

    def forward(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """x_t `(B, C, h, w)`, t `(B,)` in (0, 1] -> clean latent `(B, C, h, w)`, fp32."""
        output = self.backbone(x_t, t, condition).float()
        alpha, sigma = (part[:, None, None, None] for part in self.schedule.alpha_sigma(t))
        return self.prediction.clean(output, x_t, alpha, sigma)
