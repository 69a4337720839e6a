"""Classifier-free guidance."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ldm.batch import Condition
from ldm.diffusion.denoiser import Estimate
from ldm.guidance.base import SCALE, Guidance
from ldm.guidance.context import GuidanceContext
from ldm.options.rule import FRACTION, POSITIVE, Optional, check
from ldm.sampler.trajectory import Denoise

ROUNDING = 1e-6
"""Rounding error of timesteps, which denoisers get in fp32."""


class ClassifierFreeGuidance(Guidance):
    """Classifier-free guidance: from the unconditional estimate u through the conditional one c, u + scale * (c - u).

    The estimates are clean latents. They are affine functions of the predicted noise, with the same coefficients for
    both, so this equals guidance of the noise.

    Args:
        scale: Guidance scale: 1 is no guidance, 0 ignores the condition.
        interval: The earliest and the latest timestep with guidance, 0 <= earliest <= latest <= 1. At the others there
            is no guidance, at half the cost (Kynkäänniemi et al., 2024, section 3, arXiv:2404.07724).
        rescale: How far to move the guided estimate, in [0, 1], towards one that has the standard deviation of the
            conditional estimate, against burnt colours (Lin et al., 2024, eq. 15 and 16, arXiv:2305.08891; there for
            the output of the network, here for clean latents, whatever is predicted).
        threshold: Largest absolute value of a latent, positive; None: no limit. If the 99.5th percentile of an image is
            above it, values are clipped at that percentile and scaled down to the threshold (dynamic thresholding;
            Saharia et al., 2022, section 2.3, arXiv:2205.11487).

    Raises:
        ValueError: If an option is out of its range.

    References:
        Ho & Salimans, 2022, eq. 6, arXiv:2207.12598, with scale = 1 + w.
    """

    def __init__(
        self,
        scale: float = 1.5,
        *,
        interval: Sequence[float] = (0.0, 1.0),
        rescale: float = 0.0,
        threshold: float | None = None,
    ) -> None:
        check("guidance.scale", scale, SCALE)
        check("guidance.rescale", rescale, FRACTION)
        check("guidance.threshold", threshold, Optional(POSITIVE, "none"))
        times = tuple(interval) if isinstance(interval, Sequence) else ()
        if len(times) != 2 or not all(map(FRACTION.allows, times)) or times[0] > times[1]:
            raise ValueError(f"guidance.interval is two times, 0 <= low <= high <= 1; got {interval}")
        low, high = times
        self.scale = scale
        self.interval = (low, high)
        self.rescale = rescale
        self.threshold = threshold

    @property
    def has_negative(self) -> bool:
        """True unless the scale is 1, at which the unconditional estimate has no effect."""
        return self.scale != 1

    def wrap(self, given: GuidanceContext) -> Denoise:
        """Return the guided denoiser for one batch; see `Guidance.wrap`."""
        both = Condition.cat([given.condition, given.unconditional])
        low, high = self.interval
        always = (low, high) == (0.0, 1.0)

        def denoise(x_t: Tensor, t: Tensor) -> Estimate:
            """Return the guided estimate."""
            if not always and not low - ROUNDING <= float(t[0]) <= high + ROUNDING:  # reading t waits for the device
                estimate: Estimate = given.denoiser(x_t, t, given.condition)
                return estimate
            if self.scale == 1:
                wanted, variance = given.denoiser(x_t, t, given.condition)
                return Estimate(self._tame(wanted, wanted), variance)
            clean, variance = given.denoiser(torch.cat([x_t, x_t]), torch.cat([t, t]), both)
            wanted, free = clean.chunk(2)
            guided = self._tame(free + self.scale * (wanted - free), wanted)
            return Estimate(guided, None if variance is None else variance.chunk(2)[0])

        return denoise

    def _tame(self, guided: Tensor, wanted: Tensor) -> Tensor:
        """Rescale the guided estimate and limit its values.

        Args:
            guided: The guided estimate, `(B, C, h, w)`.
            wanted: The conditional estimate, `(B, C, h, w)`.

        Returns:
            The new estimate, `(B, C, h, w)`.
        """
        if self.rescale:
            ratio = _deviation(wanted) / _deviation(guided)
            guided = guided * (1.0 - self.rescale + self.rescale * ratio)
        if self.threshold is not None:
            extreme = guided.flatten(1).abs().quantile(0.995, dim=1).clamp(min=self.threshold)[:, None, None, None]
            guided = guided.clamp(-extreme, extreme) * (self.threshold / extreme)
        return guided


def _deviation(latent: Tensor) -> Tensor:
    """Return the standard deviation of each latent, `(B, 1, 1, 1)`."""
    return latent.flatten(1).std(1)[:, None, None, None]
