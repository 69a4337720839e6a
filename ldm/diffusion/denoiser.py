"""The denoiser: a network, a noise schedule and the meaning of the network's output."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from ldm.batch import Condition
from ldm.diffusion.prediction import Prediction
from ldm.diffusion.schedule import Schedule


class Estimate(NamedTuple):
    """The output of a denoiser for a noisy latent.

    Attributes:
        clean: The estimated clean latent, `(B, C, h, w)`, fp32.
        variance: The learned variance of a DDPM step, `(B, C, h, w)`: its place between the lower bound (0) and the
            upper bound (1) on a logarithmic scale, about in [0, 1]. None if the variance is not learned.
    """

    clean: Tensor
    variance: Tensor | None = None


class Denoiser(nn.Module):
    """A model that estimates the clean latent from a noisy one; it owns the backbone, the schedule and the prediction.

    Args:
        backbone: The network, `(x_t, t, condition)` -> prediction of the shape of x_t, or with twice its channels if
            the variance is learned.
        schedule: The noise schedule, which gives alpha_t and sigma_t.
        prediction: The meaning of the network's output: noise, clean latent, velocity or flow.
        learned_variance: Take the second half of the backbone's channels as the size of the variance of a DDPM step.

    Raises:
        ValueError: If the schedule ends in pure noise and the network predicts the noise.

    References:
        Nichol & Dhariwal, 2021, section 3.1, arXiv:2102.09672, for the learned variance.
    """

    def __init__(
        self, backbone: nn.Module, schedule: Schedule, prediction: Prediction, *, learned_variance: bool = False
    ) -> None:
        super().__init__()
        if schedule.zero_terminal_snr and not prediction.tells_from_noise:
            raise ValueError(
                f"{type(schedule).__name__} ends in pure noise, from which a prediction of the noise says nothing about "
                "the image; use prediction=velocity, flow or clean"
            )
        self.backbone = backbone
        self.schedule = schedule
        self.prediction = prediction
        self.learned_variance = learned_variance

    def forward(self, x_t: Tensor, t: Tensor, condition: Condition) -> Estimate:
        """Estimate the clean latent.

        Args:
            x_t: Noisy latents, `(B, C, h, w)`.
            t: Timesteps, `(B,)`, in (0, 1].
            condition: The conditions of the batch.

        Returns:
            The estimate of the clean latents, `(B, C, h, w)`, with the variance if it is learned.
        """
        output, variance = self.predict(x_t, t, condition)
        alpha, sigma = (part[:, None, None, None] for part in self.schedule.alpha_sigma(t))
        return Estimate(self.prediction.clean(output, x_t, alpha, sigma), variance)

    def predict(self, x_t: Tensor, t: Tensor, condition: Condition) -> tuple[Tensor, Tensor | None]:
        """Return the prediction of the network, without turning it into a clean latent.

        Args:
            x_t: Noisy latents, `(B, C, h, w)`.
            t: Timesteps, `(B,)`, in (0, 1].
            condition: The conditions of the batch.

        Returns:
            The prediction, `(B, C, h, w)`, fp32, and the variance as in `Estimate` (None if it is not learned).
        """
        output = self.backbone(x_t, t, condition).float()
        if not self.learned_variance:
            return output, None
        output, variance = output.chunk(2, dim=1)
        return output, 0.5 * (variance + 1.0)
