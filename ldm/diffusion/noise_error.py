"""The error of a denoiser at fixed noise levels: what validation measures."""

from __future__ import annotations

from torch import Tensor

from ldm.batch import Condition
from ldm.diffusion.denoiser import Denoiser
from ldm.diffusion.weighting import SNRWeighting

LEVELS = tuple(k / 8 for k in range(1, 8))
"""Timesteps t at which validation measures: 1/8, 2/8, ..., 7/8.

Both ends are left out, since the error of the predicted noise does not exist for every schedule there. At t = 0 nothing is
added, and which noise that was cannot be known. At t = 1 some schedules (rectified_flow, zero_terminal) leave nothing but the
noise, which then is x_t itself: every prediction of the image gives it without an error. Between them alpha_t and sigma_t are
positive with all schedules, and schedules of 1000 steps have been trained at exactly these timesteps.
"""


def noise_error(denoiser: Denoiser, x: Tensor, z: Tensor, t: Tensor, *, condition: Condition) -> Tensor:
    """Return the mean squared error of the predicted noise of each latent, whatever the network predicts.

    A network that predicts something else predicts the noise as well: it is (x_t - alpha_t clean) / sigma_t with its estimate
    of the clean latent. Its squared error is that of the output, times SNR / gain. No loss weight plays a part.

    Args:
        denoiser: The denoiser.
        x: Clean latents, `(B, C, h, w)`.
        z: Noise, `(B, C, h, w)`.
        t: Timesteps, `(B,)`, in (0, 1), like those of `LEVELS`.
        condition: The conditions of the batch.

    Returns:
        The errors, `(B,)`, fp32. To predict no noise at all costs 1; with latents of unit variance, to estimate nothing but the
        clean latent 0 costs the SNR of the level.

    References:
        Ho et al., 2020, eq. 14, arXiv:2006.11239; Salimans & Ho, 2022, section 4, arXiv:2202.00512 (SNR).
    """
    alpha, sigma = (part[:, None, None, None] for part in denoiser.schedule.alpha_sigma(t))
    output, _ = denoiser.predict(alpha * x + sigma * z, t, condition)
    prediction = denoiser.prediction
    share = SNRWeighting().weight((alpha / sigma).square(), prediction.gain(alpha, sigma))
    return (share * (output - prediction.target(x, z, alpha, sigma)).square()).flatten(1).mean(1)
