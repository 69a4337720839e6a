"""Noise that belongs to an image, not to a batch."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from ldm.options import Whole, check


def as_seeds(seeds: int | Iterable[int] | None, count: int) -> list[int]:
    """Return a seed for each of `count` images.

    Args:
        seeds: One an image; or a single number, from which they count on: seed, seed + 1, ...; None counts from 0.
        count: The number of images.

    Raises:
        ValueError: Where one is no whole number from -2^63 to 2^63 - 1, or there are more or fewer than images.
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
    """A whole number of any library as Python's; anything else as it is."""
    try:
        return seed if isinstance(seed, bool) else operator.index(seed)
    except TypeError:
        return seed


class Noise:
    """One random generator an image, image i's seeded by `seeds[i]`.

    Image i gets the same noise bitwise in any batch, any order, on any device and any number of processes: numbers are
    drawn on the CPU in fp32, image by image. Seeds are whole numbers from -2^63 to 2^63 - 1.
    """

    def __init__(self, seeds: Sequence[int]) -> None:
        self.seeds = seeds
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self._other: tuple[Noise, Sequence[float]] | None = None

    def toward(self, seeds: Sequence[int], shares: Sequence[float]) -> Noise:
        """This noise, for each image turned by a share of a right angle towards that of another seed; of its own one it stays.

        Unlike the mean of two noises, it is standard normal for each share in [0, 1]. Paper: Shoemake, 1985, section 3.3,
        doi:10.1145/325165.325242, for vectors at a right angle, as noises of many numbers are.
        """
        pairs = zip(self.seeds, seeds, shares, strict=True)
        self._other = Noise(seeds), [0.0 if here == there else share for here, there, share in pairs]
        return self

    def draw(self, shape: Sequence[int], device: torch.device | str = "cpu") -> Tensor:
        """The next standard normal numbers of every image, `(len(seeds), *shape)`."""
        draws = [torch.randn(tuple(shape), generator=generator) for generator in self.generators]
        if self._other is not None:
            other, shares = self._other
            angles = [share * math.pi / 2 for share in shares]
            pairs = zip(draws, other.draw(shape), angles, strict=True)
            draws = [math.cos(angle) * here + math.sin(angle) * there for here, there, angle in pairs]
        return torch.stack(draws).to(device)
