"""Noise that belongs to an image, not to a batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class Noise:
    """One random generator an image, seeded by the image's own seed.

    Image i gets the same noise bitwise in any batch, any order, on any device and any number of processes: numbers are
    drawn on the CPU in fp32, image by image.
    """

    def __init__(self, seeds: Sequence[int]) -> None:
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def draw(self, shape: Sequence[int], device: torch.device | str = "cpu") -> Tensor:
        """The next standard normal numbers of every image, `(len(seeds), *shape)`."""
        draws = [torch.randn(tuple(shape), generator=generator) for generator in self.generators]
        return torch.stack(draws).to(device)
