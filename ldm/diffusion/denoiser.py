"""The denoiser: a network, a schedule, and the meaning of the network's output."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from ldm.batch import Condition
from ldm.diffusion.prediction import Prediction
from ldm.diffusion.schedule import Schedule


class Estimate(NamedTuple):
    """What a denoiser says about a noisy latent.

    clean     the clean latent `(B, C, h, w)`, fp32
    variance  where it was learned: how far that of a DDPM step lies from its lower to its upper bound on a logarithmic
              scale, about [0, 1], of the same shape
    """

    clean: Tensor
    variance: Tensor | None = None


class Denoiser(nn.Module):
    """Estimates the clean latent from a noisy one. Owns backbone, schedule and prediction.

    backbone          `(x_t, t, condition)` -> prediction of the shape of x_t, or of twice its channels
    learned_variance  the second half of the backbone's channels says how large the variance of a DDPM step is.
                      Paper: Nichol & Dhariwal, 2021, section 3.1, arXiv:2102.09672
    """

    def __init__(
        self, backbone: nn.Module, schedule: Schedule, prediction: Prediction, *, learned_variance: bool = False
    ) -> None:
        super().__init__()
        if schedule.ends_in_noise and not prediction.tells_from_noise:
            raise ValueError(
                f"{type(schedule).__name__} ends in pure noise, from which a prediction of the noise says nothing about "
                "the image; use prediction=velocity, flow or clean"
            )
        self.backbone = backbone
        self.schedule = schedule
        self.prediction = prediction
        self.learned_variance = learned_variance

    def forward(self, x_t: Tensor, t: Tensor, condition: Condition) -> Estimate:
        """x_t `(B, C, h, w)`, t `(B,)` in (0, 1] -> the estimate of the clean latent."""
        output, variance = self.predict(x_t, t, condition)
        alpha, sigma = (part[:, None, None, None] for part in self.schedule.alpha_sigma(t))
        return Estimate(self.prediction.clean(output, x_t, alpha, sigma), variance)

    def predict(self, x_t: Tensor, t: Tensor, condition: Condition) -> tuple[Tensor, Tensor | None]:
        """What the network predicts, fp32, of the shape of x_t, and the variance of an Estimate."""
        output = self.backbone(x_t, t, condition).float()
        if not self.learned_variance:
            return output, None
        output, variance = output.chunk(2, dim=1)
        return output, 0.5 * (variance + 1.0)
