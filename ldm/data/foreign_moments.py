"""Moments that somebody else's encoder made, one .npy file a sample, and the declaration of what they are."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from numpy.lib.format import MAGIC_PREFIX

from ldm.batch import Size, whole_geometry
from ldm.data.decode import Broken, decode_array
from ldm.data.fields.cut import Cut
from ldm.data.fields.placement import Placement
from ldm.data.transforms import Transform, placement_of
from ldm.options.rule import COUNT, FLAG, POSITIVE, Real, check

ARRAY_FACT = "array"
"""The fact of an encoding that only arrays have, which do not say themselves how they were made."""


def is_array(head: bytes) -> bool:
    """Return whether a file is an array, from its first bytes."""
    return head.startswith(MAGIC_PREFIX)


def undeclared() -> dict[str, str]:
    """Return a description of arrays that were not declared yet."""
    return {ARRAY_FACT: "npy"}


def is_undeclared(encoding: Mapping[str, str]) -> bool:
    """Return whether latents are arrays about which the data set itself says nothing more."""
    return ARRAY_FACT in encoding


@dataclass(frozen=True, kw_only=True)
class ForeignMoments:
    """A declaration of what the moments in .npy files are, which the files themselves do not say.

    A file holds mean and log-variance of the posterior of one image, in this order along the channels: `(2C, h, w)` or
    `(1, 2C, h, w)` in floating point. The posterior is that of the raw latent, before any scale. Which network made it is not
    known, so that nothing can compare it with an autoencoder: the declaration stands in place of that check.

    Args:
        channels: Channels C of the raw latent.
        downsampling_factor: Height and width of an image, divided by those of its latent.
        scale: Factor of the raw latent: diffusion is trained on `(raw - shift) * scale`.
        shift: Number that is subtracted from the raw latent before that.
        normalized: Whether the images were scaled to [-1, 1] when they were encoded, as this project does; else they were left
            in [0, 1], and so are the images that a decoder makes of these latents.

    Raises:
        ValueError: If a value cannot be.
    """

    channels: int
    downsampling_factor: int
    scale: float
    shift: float
    normalized: bool

    def __post_init__(self) -> None:
        """Check the values."""
        check("data.moments.channels", self.channels, COUNT)
        check("data.moments.downsampling_factor", self.downsampling_factor, COUNT)
        check("data.moments.scale", self.scale, POSITIVE)
        check("data.moments.shift", self.shift, Real())
        check("data.moments.normalized", self.normalized, FLAG)

    def encoding(self, size: Size) -> dict[str, str]:
        """Return the facts that stand in place of an encoding, for moments of images of a size."""
        return {
            **undeclared(),
            "channels": str(self.channels),
            "downsampling_factor": str(self.downsampling_factor),
            "scale": str(self.scale),
            "shift": str(self.shift),
            "images in": "[-1, 1]" if self.normalized else "[0, 1]",
            "size": str(size),
        }

    def transform(self, size: Size) -> ForeignMomentsTransform:
        """Return the transform that reads the moments of images of a size; see `ForeignMomentsTransform`."""
        return ForeignMomentsTransform(self, size)

    def shape(self, size: Size) -> tuple[int, int, int]:
        """Return the shape of the moments of an image.

        Raises:
            ValueError: If the size of the image is not a multiple of the downsampling factor.
        """
        factor = self.downsampling_factor
        if size.height % factor or size.width % factor:
            raise ValueError(
                f"data.size={size} is not a multiple of data.moments.downsampling_factor={factor}; give the size that the images "
                "had when they were encoded"
            )
        return 2 * self.channels, size.height // factor, size.width // factor


class ForeignMomentsTransform(Transform):
    """Reads the moments of a .npy file. Nothing in the file is run.

    Args:
        declared: The declaration of the moments.
        size: The size that the images had when they were encoded.

    Raises:
        ValueError: If such images cannot have such moments.
    """

    def __init__(self, declared: ForeignMoments, size: Size) -> None:
        self.declared = declared
        self.size = size
        self.shape = declared.shape(self.size)

    @property
    def deterministic(self) -> bool:
        """True: a sample always gives the same."""
        return True

    def __repr__(self) -> str:
        return f"ForeignMomentsTransform({self.declared}, {self.size})"

    def __call__(self, data: bytes, rng: random.Random, size: Size | None = None) -> Cut:
        """Return moments, with the geometry of an image that was not cut, for none is known; see `Transform`. Raises Broken."""
        values = decode_array(data)
        if values.shape not in (self.shape, (1, *self.shape)):
            raise Broken(f"moments of shape {values.shape} instead of {self.shape}")
        moments = torch.from_numpy(values.reshape(self.shape))
        placement = self.placement(data)
        return Cut({"moments": moments, "geometry": placement.geometry}, placement)

    def placement(self, data: bytes, size: Size | None = None) -> Placement:
        """Return the placement of an image that was not cut; see `Transform`."""
        return placement_of(whole_geometry(self.size, 1)[0])

    def still(self) -> ForeignMomentsTransform:
        """Return the transform itself, which never draws."""
        return self
