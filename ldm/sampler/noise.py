"""Noise that depends on the seed of an image, not on its batch."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from ldm.options.rule import Whole, check


def as_seeds(seeds: int | Iterable[int] | None, count: int) -> list[int]:
    """Return a seed for each of `count` images.

    Args:
        seeds: One seed per image, or a single number, from which they count on: seed, seed + 1, ...; None counts from
            0.
        count: Number of images.

    Raises:
        ValueError: If a seed is not a whole number from -2^63 to 2^63 - 1, or if there are more or fewer seeds than
            images.
    """
    first: Any = 0 if seeds is None else _whole(seeds)
    if isinstance(first, Iterable) and not isinstance(first, str):
        found = [_whole(seed) for seed in first]
    else:
        check("seeds", first, Whole())
        found = [first + index for index in range(count)]
    for seed in found:
        check("seeds", seed, Whole())
    if len(found) != count:
        raise ValueError(f"one seed a prompt is needed; got {count} prompts and {len(found)} seeds")
    return found


def _whole(seed: Any) -> Any:
    """Return a whole number of any library as Python's int, and anything else unchanged."""
    try:
        return seed if isinstance(seed, bool) else operator.index(seed)
    except TypeError:
        return seed


class SeededNoise:
    """One random generator per image; that of image i is seeded by `seeds[i]`.

    Image i gets the same noise bitwise in any batch, in any order, on any device and with any number of processes,
    because numbers are drawn on the CPU in fp32, image by image.

    Args:
        seeds: One seed per image, each from -2^63 to 2^63 - 1.
    """

    def __init__(self, seeds: Sequence[int]) -> None:
        self.seeds = seeds
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self._other: tuple[SeededNoise, Sequence[float]] | None = None

    def interpolation(self, seeds: Sequence[int], fractions: Sequence[float]) -> SeededNoise:
        """Interpolate spherically between this noise and the noise of other seeds, and return it.

        For each image, the noise is turned by a fraction of a right angle. It stays as it is if both seeds are the same.
        Unlike the mean of two noises, the result is standard normal for each fraction.

        Args:
            seeds: The other seed of each image, `(B,)`.
            fractions: How far to go for each image, `(B,)`, in [0, 1]: 0 is this noise, 1 the other.

        References:
            Shoemake, 1985, section 3.3, doi:10.1145/325165.325242, for vectors at a right angle, as noises of many
            numbers are.
        """
        pairs = zip(self.seeds, seeds, fractions, strict=True)
        self._other = SeededNoise(seeds), [0.0 if here == there else fraction for here, there, fraction in pairs]
        return self

    def draw(self, shape: Sequence[int], device: torch.device | str = "cpu") -> Tensor:
        """Draw the next standard normal numbers of each image.

        Args:
            shape: Shape for one image.
            device: Device of the result.

        Returns:
            The noise, `(len(seeds), *shape)`, fp32.
        """
        draws = [torch.randn(tuple(shape), generator=generator) for generator in self.generators]
        if self._other is not None:
            other, fractions = self._other
            angles = [fraction * math.pi / 2 for fraction in fractions]
            pairs = zip(draws, other.draw(shape), angles, strict=True)
            draws = [math.cos(angle) * here + math.sin(angle) * there for here, there, angle in pairs]
        noise = torch.stack(draws)
        if torch.device(device).type == "cuda":
            noise = noise.pin_memory()  # which is copied while the program goes on
        return noise.to(device, non_blocking=True)
