"""Masks of several generators."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from ldm.batch import Size
from ldm.data.masks.base import MaskArray, MaskGenerator
from ldm.options.rule import POSITIVE, check


class Mixed(MaskGenerator):
    """Masks of one generator or another, drawn by weight.

    Args:
        generators: Name -> generator.
        weights: Name -> weight of that generator, above 0.
        fraction: Least and greatest fraction of masked pixels; masks outside are drawn again.

    Raises:
        ValueError: If generators and weights do not have the same names, or a weight is not above 0.
    """

    def __init__(
        self,
        *,
        generators: Mapping[str, MaskGenerator],
        weights: Mapping[str, float],
        fraction: Sequence[float] = (0.01, 0.9),
    ) -> None:
        super().__init__(fraction)
        if set(generators) != set(weights) or not generators:
            raise ValueError(
                f"every mask generator has a weight; got generators {sorted(generators)} and weights {sorted(weights)}"
            )
        for name, weight in weights.items():
            check(f"masks.weights.{name}", weight, POSITIVE)
        self.generators = dict(generators)
        self.weights = dict(weights)

    def draw(self, size: Size, rng: random.Random) -> MaskArray:
        """Return a mask `(H, W)` of a generator that is drawn by weight."""
        (name,) = rng.choices(list(self.generators), [self.weights[name] for name in self.generators])
        return self.generators[name].draw(size, rng)
