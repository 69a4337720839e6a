"""Coordinates in which noise and data lie on a straight line, and the slope of the probability flow in them."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from ldm.sampler.path import Knot, Path


class Straight(NamedTuple):
    """X = x_t / c and tau = sigma_t / c with c = alpha_t, or c = alpha_t + sigma_t.

    The probability flow is dX / dtau = slope. The first kind, noise levels as in EDM, has no place for pure noise, and from
    one level to less than a third of it, Heun's method does not stay stable, for slopes change like 1 / tau. The second
    kind, the time of a rectified flow, has neither fault; a sampler of first order does not tell them apart.

    Paper: Karras et al., 2022, eq. 1 and appendix B.1, arXiv:2206.00364; Liu et al., 2022, eq. 1, arXiv:2209.03003.
    """

    flow: bool

    @staticmethod
    def of(path: Path) -> Straight:
        """Those that suit a path: the first kind, which the papers have, where it can be."""
        return Straight(path.steepness > 3.0)

    def scale(self, knot: Knot) -> float:
        """c at a knot."""
        return knot.alpha + knot.sigma if self.flow else knot.alpha

    def slope(self, x: Tensor, clean: Tensor, knot: Knot) -> Tensor:
        """dX / dtau at x_t, whose clean estimate is known: the noise, for the rectified flow minus the clean latent."""
        noise = (x - knot.alpha * clean) / knot.sigma
        return noise - clean if self.flow else noise

    def go(self, x: Tensor, slope: Tensor, here: Knot, there: Knot) -> Tensor:
        """x_s from x_t along a slope."""
        before, after = self.scale(here), self.scale(there)
        return after * (x / before + (there.sigma / after - here.sigma / before) * slope)
