"""Equivariance of latents: what is done to an image, smaller or turned, can be done to its latent as well."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ldm.options.rule import FRACTION, Real, check

LEAST_SIDE = 32
"""The least height and width in pixels of images that are made smaller; perceptual distance and discriminator need as much."""


class Equivariance:
    """Trains an autoencoder to have latents that can be resized and turned as images can, from which diffusion learns sooner.

    The raw latents of some batches are made smaller by a random factor and turned by a random multiple of 90 degrees before
    they are decoded, and so are the images that the reconstruction is compared with. Nothing else changes, and nothing at all
    after training. Published, after five epochs of fine-tuning Stable Diffusion's first stage: DiT-XL/2 is trained seven
    times as fast.

    Args:
        probability: How often a batch is changed, in [0, 1].
        smallest: The least factor of height and width, above 0 and at most 1. Images keep 32 pixels at least.

    References:
        Kouzelis et al., 2025, section 3, arXiv:2502.09509.
    """

    def __init__(self, *, probability: float = 0.5, smallest: float = 0.25) -> None:
        check("equivariance.probability", probability, FRACTION)
        check("equivariance.smallest", smallest, Real(0.0, 1.0, above=True))
        self.probability = probability
        self.smallest = smallest

    def __call__(self, image: Tensor, raw: Tensor) -> tuple[Tensor, Tensor] | None:
        """Return images and raw latents, changed alike; None where this batch stays as it is.

        It draws from torch's generator of the CPU: whether to change, then by which factor, then how to turn.

        Args:
            image: Images `(B, 3, H, W)` in [-1, 1].
            raw: Their raw latents, `(B, C, H/f, W/f)`.

        Returns:
            Images `(B, 3, f h', f w')` in [-1, 1] and raw latents `(B, C, h', w')`.
        """
        chance, share, turn = torch.rand(3, dtype=torch.float64).tolist()
        if chance >= self.probability:
            return None
        factor = image.shape[-1] // raw.shape[-1]
        scale = self.smallest + (1.0 - self.smallest) * share
        size = [_smaller(side, scale, least=-(-LEAST_SIDE // factor)) for side in raw.shape[-2:]]
        quarters = int(4 * turn)
        images = _changed(image, [factor * side for side in size], quarters).clamp(-1.0, 1.0)
        return images, _changed(raw, size, quarters)


def _smaller(side: int, scale: float, *, least: int) -> int:
    """Return a scaled height or width, a whole number, not below `least` but where it was before."""
    return min(side, max(round(scale * side), least))


def _changed(maps: Tensor, size: Sequence[int], quarters: int) -> Tensor:
    """Return maps `(B, C, h, w)`, resized by cubic interpolation without aliasing, then turned by some quarters of a turn.

    Each axis is multiplied by a matrix, whose gradient is deterministic on GPUs, too; that of torch's interpolation is not.
    """
    if list(maps.shape[-2:]) != list(size):
        down, across = (
            _weights(length, wanted).to(maps.device, non_blocking=True)
            for length, wanted in zip(maps.shape[-2:], size, strict=True)
        )
        maps = (down @ maps.double() @ across.T).to(maps.dtype)  # neither autocast nor TF32 rounds these numbers
    return maps.rot90(quarters, (-2, -1))


def _weights(length: int, wanted: int) -> Tensor:
    """Return the weight of each of the old places in each of the new ones, `(wanted, length)` float64."""
    old = torch.eye(length, dtype=torch.float64)[None, None]
    return F.interpolate(old, (wanted, length), mode="bicubic", antialias=True)[0, 0]
