"""Inpainting by a model that was never trained for it, and the masks of inpainting."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ldm.diffusion.denoiser import Estimate
from ldm.sampler.trajectory import Denoise


def replace_known(denoise: Denoise, known: Tensor, made: Tensor) -> Denoise:
    """Return a denoiser whose estimate is replaced by the known latent where that is given: every sampler inpaints.

    The clean estimate x becomes made x + (1 - made) known. Where the latent is known, x_t therefore stays the known
    latent with the noise of its timestep, as the forward process gives it, and the rest is made to fit to it.

    Args:
        denoise: The denoiser, with condition and guidance inside.
        known: Clean latents, `(B, C, h, w)`.
        made: Mask of the latents, `(B, 1, h, w)`: 1 where they are made, 0 where they are known.

    Returns:
        The new denoiser.

    References:
        Song et al., 2021, section 5 and appendix I.2, arXiv:2011.13456; Lugmayr et al., 2022, eq. 8, arXiv:2201.09865.
    """

    def held(x_t: Tensor, t: Tensor) -> Estimate:
        """Return the estimate with the known latent in it."""
        estimate = denoise(x_t, t)
        return estimate._replace(clean=torch.where(made > 0, estimate.clean, known))

    return held


def fill_masked(image: Tensor, mask: Tensor) -> Tensor:
    """Return the image with its masked part filled by the colours around it, the smoother the further inside.

    The encoder, whose latents each see a large part of the image, then learns nothing of the masked part.

    Args:
        image: Images, `(B, C, H, W)`.
        mask: `(B, 1, H, W)`, 1 where the image is filled. A mask of ones alone gives zeros.

    Returns:
        The filled images, `(B, C, H, W)`.

    References:
        The pull-push algorithm of Gortler et al., 1996, "The Lumigraph", section 3.3.2.
    """
    known = 1.0 - mask
    if not mask.any() or image.shape[-2:] == (1, 1):
        return image * known
    total = F.avg_pool2d(image * known, 2, ceil_mode=True, count_include_pad=False)
    weight = F.avg_pool2d(known, 2, ceil_mode=True, count_include_pad=False)
    coarse = fill_masked(total / weight.clamp(min=1e-6), (weight == 0).to(image))
    around = F.interpolate(coarse, size=image.shape[-2:], mode="bilinear", align_corners=False)
    return torch.where(mask > 0, around, image)


def feather_mask(mask: Tensor, border: int) -> Tensor:
    """Return a mask whose edge falls off linearly outside of it.

    Args:
        mask: `(B, 1, H, W)`, 0 or 1.
        border: Width of the soft edge in pixels.

    Returns:
        The mask, `(B, 1, H, W)`, in [0, 1].
    """
    soft = grown = mask
    for distance in range(1, border + 1):
        grown = F.max_pool2d(grown, 3, stride=1, padding=1)
        soft = torch.maximum(soft, grown * (1.0 - distance / (border + 1)))
    return soft
