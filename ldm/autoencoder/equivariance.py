"""Equivariance of latents: what is done to an image, smaller or turned, can be done to its latent as well."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ldm.batch import Size
from ldm.options.rule import COUNT, FRACTION, NOT_NEGATIVE, Real, Whole, check
from ldm.pretrained.interpolation import interpolate_by_matrices

LEAST_SIDE = 32
"""The least height and width in pixels of images that take the place of others in training; the discriminator needs it."""

LEAST_COMPARED = 16
"""The least height and width in pixels of images that are only compared: LPIPS halves them four times."""


class View(NamedTuple):
    """Images and the raw latents that are to be decoded to them.

    Attributes:
        image: Images `(B, 3, f h, f w)` in [-1, 1].
        raw: Raw latents `(B, C, h, w)`.
    """

    image: Tensor
    raw: Tensor


class Equivariance(ABC):
    """The base class of what trains an autoencoder to have latents that change as their images do.

    Args:
        weight: Weight of the reconstruction loss of further pairs; 0 where there are none.
    """

    def __init__(self, *, weight: float) -> None:
        check("equivariance.weight", weight, NOT_NEGATIVE)
        self.weight = weight

    @abstractmethod
    def instead(self, image: Tensor, raw: Tensor) -> View | None:
        """Return the pairs to train on in place of images and their raw latents; None: the pairs as they are.

        It draws from torch's generator of the CPU.

        Args:
            image: Images `(B, 3, H, W)` in [-1, 1].
            raw: Their raw latents, `(B, C, H/f, W/f)`.
        """

    @abstractmethod
    def beside(self, image: Tensor, raw: Tensor) -> View | None:
        """Return further pairs to decode and compare, beside images and their raw latents, as `instead` does; None: no pairs."""

    @abstractmethod
    def check_size(self, size: Size, factor: int) -> None:
        """Check that images are large enough.

        Args:
            size: Height and width of images.
            factor: Downsampling factor of the autoencoder.

        Raises:
            ValueError: If nothing could be done with images of this size.
        """


class EQVAE(Equivariance):
    """Trains an autoencoder to have latents that can be resized and turned as images can, from which diffusion learns sooner.

    The raw latents of some batches are made smaller by a random factor and turned by a random multiple of 90 degrees before
    they are decoded, and so are the images that the reconstruction is compared with. Nothing else changes, and nothing at all
    after training. Published, after five epochs of fine-tuning Stable Diffusion's first stage: DiT-XL/2 is trained seven
    times as fast.

    Args:
        probability: The probability that a batch is changed, in [0, 1].
        smallest: The least factor of height and width, above 0 and at most 1. Images keep 32 pixels at least.

    References:
        Kouzelis et al., 2025, section 3, arXiv:2502.09509.
    """

    def __init__(self, *, probability: float = 0.5, smallest: float = 0.25) -> None:
        super().__init__(weight=0.0)
        check("equivariance.probability", probability, FRACTION)
        check("equivariance.smallest", smallest, Real(0.0, 1.0, above=True))
        self.probability = probability
        self.smallest = smallest

    def instead(self, image: Tensor, raw: Tensor) -> View | None:
        """Return images and raw latents, changed alike; see `Equivariance.instead`.

        It draws whether to change, then by which factor, then how to turn.
        """
        chance, share, turn = torch.rand(3, dtype=torch.float64).tolist()
        if chance >= self.probability:
            return None
        factor = image.shape[-1] // raw.shape[-1]
        scale = self.smallest + (1.0 - self.smallest) * share
        size = [_smaller(side, scale, least=-(-LEAST_SIDE // factor)) for side in raw.shape[-2:]]
        quarters = int(4 * turn)
        images = _changed(image, [factor * side for side in size], quarters).clamp(-1.0, 1.0)
        return View(images, _changed(raw, size, quarters))

    def beside(self, image: Tensor, raw: Tensor) -> View | None:
        """Return None: nothing is added to the loss."""
        return None

    def check_size(self, size: Size, factor: int) -> None:
        """Do nothing: images of any size can be turned."""


class ScaleEquivariance(Equivariance):
    """Trains an autoencoder to have latents that can be made smaller as images can, by a loss beside that of the images.

    At each step raw latents are made smaller by a random one of some factors, and decoded; the result is compared with the
    images, made smaller as well, by absolute, squared and perceptual error. The adversarial term has no part in it. Latents so
    trained have less of the high frequencies that images do not have. Published, after at most 20,000 steps of fine-tuning:
    FID on ImageNet at 256 x 256 falls by 19 %.

    Both are made smaller by the mean over blocks, which for a factor of 2 is bilinear interpolation. Latents whose height or
    width no factor divides are not changed.

    Args:
        weight: Weight of the loss of the smaller images.
        factors: Whole numbers above 1, by which height and width are divided. Images keep 16 pixels at least.

    References:
        Skorokhodov et al., 2025, section 3, arXiv:2502.14831.
    """

    def __init__(self, *, weight: float = 0.25, factors: Sequence[int] = (2, 4)) -> None:
        super().__init__(weight=weight)
        check("equivariance.factors", len(factors), COUNT)
        for factor in factors:
            check("equivariance.factors", factor, Whole(2))
        self.factors = list(factors)

    def instead(self, image: Tensor, raw: Tensor) -> View | None:
        """Return None: images stay what is trained on."""
        return None

    def beside(self, image: Tensor, raw: Tensor) -> View | None:
        """Return smaller images and raw latents; see `Equivariance.beside`. It draws the factor."""
        chance = float(torch.rand((), dtype=torch.float64))
        fitting = self._fitting(raw.shape[-2:], image.shape[-1] // raw.shape[-1])
        if not fitting:
            return None
        factor = fitting[int(chance * len(fitting))]
        return View(F.avg_pool2d(image.float(), factor), F.avg_pool2d(raw, factor))

    def check_size(self, size: Size, factor: int) -> None:
        """Check that some factor divides the latents; see `Equivariance.check_size`."""
        if not self._fitting([side // factor for side in size], factor):
            raise ValueError(
                f"equivariance.factors={self.factors} divide no latents of images of data.size={list(size)} so that images keep "
                f"{LEAST_COMPARED} pixels; use larger images, other factors, or equivariance=eq_vae, which turns them"
            )

    def _fitting(self, latent_size: Sequence[int], factor: int) -> list[int]:
        """Return the factors that divide latents of this size, so that their images keep enough pixels."""
        return [
            by
            for by in self.factors
            if all(side % by == 0 and side // by * factor >= LEAST_COMPARED for side in latent_size)
        ]


def _smaller(side: int, scale: float, *, least: int) -> int:
    """Return a scaled height or width, a whole number, not below `least` but where it was before."""
    return min(side, max(round(scale * side), least))


def _changed(maps: Tensor, size: Sequence[int], quarters: int) -> Tensor:
    """Return maps `(B, C, h, w)`, resized by cubic interpolation without aliasing, then turned by some quarters of a turn."""
    if list(maps.shape[-2:]) != list(size):
        maps = interpolate_by_matrices(maps, size, "bicubic")
    return maps.rot90(quarters, (-2, -1))
