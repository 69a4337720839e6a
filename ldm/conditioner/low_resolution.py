"""An image of low resolution as a condition: super-resolution."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from ldm.batch import Condition, Fields, tensor_field
from ldm.conditioner.base import SingleConditioner, on_device, without
from ldm.conditioner.maps import latent_size, resized
from ldm.conditioner.value_range import ValueRange
from ldm.nn.embedding import sinusoidal
from ldm.options.rule import FRACTION, OneOf, Optional, Whole, check

LEVELS = 1000
"""A noise level in [0, 1] enters its sinusoidal features as level * 1000, as the timestep does."""


class LowResolutionConditioner(SingleConditioner):
    """The image of low resolution as a map beside x_t, resized to the latent's resolution where it has another.

    With noise augmentation, in training a level s is drawn for each image, uniformly from [0, noise], the image becomes
    sqrt(1 - s^2) image + s epsilon, and the network is conditioned on s: a vector, sinusoidal features of 1000 s beside those of
    the time. So it forgives flaws of low-resolution images that its training images had not. At sampling the field `noise_level`
    is s of each image, whose noise is added, and the network is conditioned on it; epsilon depends on the `seed` of the image
    alone. Without that field nothing is added, and the network is conditioned on s = 0. More noise hides more of the image,
    flaws and details.

    Args:
        factor: Height and width of the images to be made, divided by those of the low-resolution image, at least 2. It is
            saved with the model, so that sampling knows how large images become.
        concat_channels: Channels of the map, which are three.
        noise: Largest noise level, in [0, 1]; 0: no noise is added, and there is no vector.
        vector_width: Width of the vector that encodes the level, an even number; None where `noise` is 0.
        drop_rate: Fraction of the training images whose low-resolution image is dropped, in [0, 1]; map and vector are then zero.

    Raises:
        ValueError: Where there is noise and no vector to encode its level, or a vector and no noise.

    References:
        Rombach et al., 2022, section 4.4, arXiv:2112.10752 (without noise); Ho et al., 2022, section 4.2, arXiv:2106.15282.
    """

    inputs = ("low_resolution", "latent_size", "image_size")

    def __init__(
        self,
        factor: int,
        *,
        concat_channels: int = 3,
        noise: float = 0.0,
        vector_width: int | None = None,
        drop_rate: float = 0.0,
    ) -> None:
        super().__init__(drop_rate=drop_rate)
        check("conditioner.factor", factor, Whole(2))
        check("conditioner.concat_channels", concat_channels, OneOf((3,)))
        check("conditioner.noise", noise, FRACTION)
        check("conditioner.vector_width", vector_width, Optional(Whole(2), "no noise, no level"))
        if (vector_width is None) != (noise == 0) or (vector_width or 0) % 2:
            raise ValueError(
                "the noise level becomes a vector of even width: give conditioner.noise above 0 and conditioner.vector_width, "
                f"or 0 and null; got {noise} and {vector_width}"
            )
        self.factor = factor
        self.concat_channels = concat_channels
        self.noise = noise
        advice = "give less noise, or a model that was trained with more of it"
        self.ranges = (ValueRange("noise_level", 0, noise, f"conditioner.noise={noise:g}", advice),)
        self.vector_width = vector_width

    def prepare(self, samples: Iterable[Fields] | None) -> None:
        """Do nothing: nothing is learned."""

    def encode(self, fields: Fields, dropped: Tensor) -> Condition:
        """Return the condition of `low_resolution`, `(B, 3, H/s, W/s)`: a map `(B, 3, h, w)`, perhaps a vector.

        In training with noise, it draws from torch's generator: the levels, then the noise. At sampling, levels `(B,)` can be
        given as `noise_level`.

        Raises:
            ValueError: Where the images to be made are not `factor` times as large.
        """
        small = self.tensor(fields, "low_resolution")
        self._check_size(small.shape[-2:], tensor_field(fields, "image_size")[0].tolist())
        maps = resized(small, latent_size(fields))
        if self.vector_width is None:
            return Condition(concat=without(maps, dropped))
        level = torch.zeros(len(maps), device=maps.device)
        if self.training:
            level = self.noise * on_device(torch.rand(len(maps)), maps.device)
            maps = _noisy(maps, level, torch.randn(maps.shape, device=maps.device))
        elif "noise_level" in fields:
            level = torch.as_tensor(fields["noise_level"], dtype=torch.float32).to(maps.device)
            maps = _noisy(maps, level, _seeded_noise(tensor_field(fields, "seed"), maps.shape[1:]).to(maps.device))
        vector = sinusoidal(level * LEVELS, self.vector_width)
        return Condition(vector=without(vector, dropped), concat=without(maps, dropped))

    def _check_size(self, small: Sequence[int], large: Sequence[int]) -> None:
        """Raise ValueError where images to be made are not `factor` times as large as their low-resolution images."""
        if [side * self.factor for side in small] != list(large):
            raise ValueError(
                f"this model makes images {self.factor} times as large (conditioner.factor), but the field low_resolution is of "
                f"{small[0]} x {small[1]} pixels, and images of {large[0]} x {large[1]} are to be made; give such images, "
                "or train with degradation.factor and conditioner.factor alike"
            )


def _noisy(maps: Tensor, level: Tensor, noise: Tensor) -> Tensor:
    """Return maps `(B, 3, h, w)` with noise of their shape, of a level `(B,)` in [0, 1] for each."""
    s = level[:, None, None, None]
    return (1.0 - s.square()).sqrt() * maps + s * noise


def _seeded_noise(seeds: Tensor, shape: Sequence[int]) -> Tensor:
    """Return standard normal noise for each of seeds `(B,)`, `(B, *shape)`, other than that with which sampling begins."""
    chosen = (random.Random(f"{seed}/noise_level").getrandbits(63) for seed in seeds.tolist())
    return torch.stack([torch.randn(tuple(shape), generator=torch.Generator().manual_seed(one)) for one in chosen])
