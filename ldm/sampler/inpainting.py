"""Making a part of an image anew with a model that was never trained to."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ldm.diffusion.denoiser import Estimate
from ldm.sampler.path import Denoise


def hold_known(denoise: Denoise, known: Tensor, made: Tensor) -> Denoise:
    """A denoiser that finds what is known where it is known, so that every sampler leads there.

    There, x_t stays the known latent with the noise of its time, as the forward process gives it, and the rest is made to
    fit to it.

    known  clean latents `(B, C, h, w)`
    made   1 where the latent shall be made, 0 where it is known, `(B, 1, h, w)`

    Paper: Song et al., 2021, section 5 and appendix I.2, arXiv:2011.13456; Lugmayr et al., 2022, eq. 8, arXiv:2201.09865.
    """

    def held(x_t: Tensor, t: Tensor) -> Estimate:
        estimate = denoise(x_t, t)
        return estimate._replace(clean=torch.where(made > 0, estimate.clean, known))

    return held


def soft_mask(mask: Tensor, border: int) -> Tensor:
    """A mask `(B, 1, H, W)` in {0, 1} whose edge falls off linearly over `border` pixels outside of it."""
    soft = grown = mask
    for distance in range(1, border + 1):
        grown = F.max_pool2d(grown, 3, stride=1, padding=1)
        soft = torch.maximum(soft, grown * (1.0 - distance / (border + 1)))
    return soft
