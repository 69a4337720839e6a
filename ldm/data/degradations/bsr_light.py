"""The light variant of the blind super-resolution degradation: blur, resize, noise and JPEG in a random order.

Zhang et al., 2021, "Designing a Practical Degradation Model for Deep Blind Image Super-Resolution", arXiv:2103.14006,
section 3. Rombach et al., 2022, appendix on super-resolution, arXiv:2112.10752, found the original too strong and made it
more moderate; their text gives no numbers. Here, blur has a quarter of the original's widths, noise at most a third of
its strength, JPEG a quality of at least 80, and the noise of camera sensors is left out.
"""

from __future__ import annotations

import io
import math
import random
from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image

from ldm.batch import Size
from ldm.data.degradations.base import Degradation, Levels
from ldm.options.rule import NOT_NEGATIVE, Whole, check, check_range

KERNEL_SIZES = range(7, 22, 2)
"""Sides of blur kernels in pixels; section 3.1."""

KERNELS = (Image.Resampling.NEAREST, Image.Resampling.BILINEAR, Image.Resampling.BICUBIC)
"""Kernels by which images are resized; section 3.2."""

JPEG_RATE = 0.75
"""The probability of JPEG among the shuffled steps; section 3.4. It is always the last step, too."""


class BSRLight(Degradation):
    """Blur twice, resize, add noise and compress in a random order, then compress once more.

    Args:
        factor: Height and width of an image divided by those of the result, at least 2.
        blur: Widths of blur kernels relative to the original degradation, whose isotropic ones have a standard deviation
            of up to 2 + factor / 5 pixels, and whose anisotropic ones a variance of up to 4 + factor along each axis.
        noise: Least and greatest standard deviation of Gaussian noise, in 8-bit levels; the original's are 1 and 25.
        quality: Least and greatest quality of JPEG, 1 to 100; the original's are 30 and 95.

    Raises:
        ValueError: If an option has a value that it cannot have.
    """

    def __init__(
        self,
        factor: int = 4,
        *,
        blur: float = 0.25,
        noise: Sequence[float] = (1.0, 8.0),
        quality: Sequence[int] = (80, 95),
    ) -> None:
        super().__init__(factor)
        check("degradation.blur", blur, NOT_NEGATIVE)
        for value in noise:
            check("degradation.noise", value, NOT_NEGATIVE)
        for value in quality:
            check("degradation.quality", value, Whole(1, 100))
        check_range("degradation.noise", noise)
        check_range("degradation.quality", quality)
        self.blur = blur
        self.noise = (float(noise[0]), float(noise[1]))
        self.quality = (int(quality[0]), int(quality[1]))

    @property
    def deterministic(self) -> bool:
        """False: almost everything is drawn."""
        return False

    def __call__(self, image: Levels, rng: random.Random) -> Levels:
        """Return the degraded image `(H / factor, W / factor, 3)` of an image `(H, W, 3)`."""
        size = self.result_size(image)
        steps: list[Callable[[Levels], Levels]] = [
            lambda image: convolve(image, self._isotropic(rng)),
            lambda image: convolve(image, self._anisotropic(rng)),
            lambda image: _resize_by_chance(image, size, self.factor, rng),
            lambda image: _add_noise(image, rng.uniform(*self.noise), rng),
            lambda image: self._compress(image, rng) if rng.random() < JPEG_RATE else image,
        ]
        rng.shuffle(steps)
        for step in steps:
            image = step(image)
        return self._compress(image, rng)

    def _compress(self, image: Levels, rng: random.Random) -> Levels:
        """Return an image as it comes back from a JPEG file."""
        data = io.BytesIO()
        Image.fromarray(image).save(data, format="jpeg", quality=rng.randint(*self.quality))
        return np.asarray(Image.open(data, formats=("JPEG",)).convert("RGB"))

    def _isotropic(self, rng: random.Random) -> NDArray[np.float32]:
        """Draw a kernel `(k, k)`; section 3.1: the standard deviation is up to 2.4 for factor 2 and up to 2.8 for factor 4."""
        side = rng.choice(KERNEL_SIZES)
        std = rng.uniform(0.1, max(0.1, self.blur * (2.0 + 0.2 * self.factor)))
        return gaussian_kernel(side, std**2, std**2, 0.0)

    def _anisotropic(self, rng: random.Random) -> NDArray[np.float32]:
        """Draw a kernel `(k, k)`; section 3.1: the axes are up to 6 for factor 2 and up to 8 for factor 4.

        They are variances: the square roots of 6 and 8 are the widths 2.4 and 2.8 of the isotropic kernels.
        """
        side = rng.choice(KERNEL_SIZES)
        greatest = self.blur * (4.0 + self.factor)
        first, second = (rng.uniform(min(0.5, greatest), greatest) for _ in range(2))
        return gaussian_kernel(side, max(first, 0.01), max(second, 0.01), rng.uniform(0.0, math.pi))


def gaussian_kernel(side: int, first: float, second: float, angle: float) -> NDArray[np.float32]:
    """Return a Gaussian blur kernel `(side, side)`, whose values add up to 1.

    Args:
        side: Height and width in pixels, odd.
        first: Variance along the first axis, in square pixels.
        second: Variance along the second axis.
        angle: Angle of the first axis with the horizontal, in radians.
    """
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    along = x * math.cos(angle) + y * math.sin(angle)
    across = y * math.cos(angle) - x * math.sin(angle)
    kernel = np.exp(-0.5 * (along**2 / first + across**2 / second))
    return np.asarray(kernel / kernel.sum(), np.float32)


def convolve(image: Levels, kernel: NDArray[np.float32]) -> Levels:
    """Return an image `(H, W, 3)` convolved with a kernel `(k, k)`; beyond its edges the pixels at the edge go on."""
    side = len(kernel)
    planes = torch.from_numpy(np.array(image)).permute(2, 0, 1)[:, None].float()
    padded = F.pad(planes, [side // 2] * 4, mode="replicate")
    blurred = F.conv2d(padded, torch.from_numpy(kernel)[None, None])
    return blurred[:, 0].permute(1, 2, 0).round().clamp(0, 255).byte().numpy()


def _resize_by_chance(image: Levels, size: Size, factor: int, rng: random.Random) -> Levels:
    """Return an image in a size, by one kernel drawn, or half of the time by two with another size between; section 3.2."""
    if rng.random() < 0.5:
        between = rng.uniform(0.5, factor)
        middle = Size(*(max(1, round(length / between)) for length in image.shape[:2]))
        image = _resize(image, middle, rng.choice(KERNELS[1:]))
        return _resize(image, size, rng.choice(KERNELS[1:]))
    return _resize(image, size, rng.choice(KERNELS))


def _resize(image: Levels, size: Size, kernel: Image.Resampling) -> Levels:
    return np.asarray(Image.fromarray(image).resize((size.width, size.height), kernel))


def _add_noise(image: Levels, std: float, rng: random.Random) -> Levels:
    """Return an image with Gaussian noise: of one covariance over the channels, independent, or gray; section 3.3."""
    own = np.random.default_rng(rng.getrandbits(128))
    kind = rng.random()
    if kind < 0.4:
        noise = own.standard_normal(image.shape)
    elif kind < 0.8:
        noise = own.standard_normal((*image.shape[:2], 1))
    else:
        mixing = np.linalg.qr(own.standard_normal((3, 3)))[0] * own.uniform(0.0, 1.0, 3)
        noise = own.standard_normal(image.shape) @ mixing.T
    return np.rint(np.clip(image + std * noise, 0, 255)).astype(np.uint8)
