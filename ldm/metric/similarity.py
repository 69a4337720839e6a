"""Likeness of an image and what it should be: pixel by pixel, and window by window."""

from __future__ import annotations

import torch
from torch import Tensor

from ldm.pretrained.precision import float64

WINDOW, DEVIATION = 11, 1.5
"""Height and width of a window of SSIM in pixels, and the standard deviation of the Gaussian by which its pixels are weighted."""

BRIGHTNESS, CONTRAST = 0.01, 0.03
"""K1 and K2 of SSIM, as fractions of the range of pixels: small terms by which no ratio is divided by zero."""


def peak_signal_noise_ratio(images: Tensor, truth: Tensor) -> Tensor:
    """Return the peak signal-to-noise ratio of each image in dB, `(B,)` float64; infinite where nothing differs.

    Args:
        images: `(B, 3, H, W)` in [-1, 1].
        truth: The images that they should equal, `(B, 3, H, W)` in [-1, 1].
    """
    error = (float64(images) - float64(truth)).square().mean((1, 2, 3))
    return 10 * (4 / error).log10()


def structural_similarity(images: Tensor, truth: Tensor) -> Tensor:
    """Return the structural similarity (SSIM) of each image to what it should be, `(B,)` float64; 1 where nothing differs.

    It is the mean over channels, each by itself, and over the windows that lie within the image: none is mirrored at its edges.
    Black is 0 and white 1, as published. Of the same images in [-1, 1] it is another number, since brightness counts as a ratio.

    Args:
        images: `(B, 3, H, W)` in [-1, 1].
        truth: The images that they should equal, `(B, 3, H, W)` in [-1, 1].

    Returns:
        The similarities, nan for images that are smaller than a window.

    References:
        Wang et al., 2004, eq. 13 to 17, IEEE Transactions on Image Processing 13 (4).
    """
    x, y = ((float64(part) + 1) / 2 for part in (images, truth))
    if min(x.shape[2:]) < WINDOW:
        return x.new_full((len(x),), torch.nan)
    down, across = (_windows(side).to(x.device) for side in x.shape[2:])

    def mean(values: Tensor) -> Tensor:
        return down @ values @ across.T

    mean_x, mean_y = mean(x), mean(y)
    common = mean_x * mean_y
    squares = mean_x.square() + mean_y.square()
    covariance = mean(x * y) - common
    variances = mean(x * x) + mean(y * y) - squares
    brightness = (2 * common + BRIGHTNESS**2) / (squares + BRIGHTNESS**2)
    return (brightness * (2 * covariance + CONTRAST**2) / (variances + CONTRAST**2)).mean((1, 2, 3))


def _windows(side: int) -> Tensor:
    """Return a matrix `(side - 10, side)` whose rows are the weights of windows along one side of an image."""
    place = torch.arange(WINDOW, dtype=torch.float64) - WINDOW // 2
    weights = (-place.square() / (2 * DEVIATION**2)).exp()
    rows = torch.zeros(side - WINDOW + 1, side, dtype=torch.float64)
    for offset, weight in enumerate(weights / weights.sum()):
        rows.diagonal(offset).fill_(weight)
    return rows
