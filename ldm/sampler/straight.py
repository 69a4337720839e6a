"""Two forms of the probability flow ODE: in the noise level of EDM, and in the time of a rectified flow."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from ldm.sampler.path import Knot, Path


class Straight(NamedTuple):
    """Coordinates of the probability flow ODE dX / dtau = slope, in which noise and data lie on a straight line.

    They are X = x_t / c and tau = sigma_t / c. There are two kinds. With c = alpha_t, tau is the noise level of EDM. It
    cannot start from pure noise, and Heun's method is not stable in it if a step goes to less than a third of the noise
    level, because slopes change like 1 / tau. With c = alpha_t + sigma_t, tau is the time of a rectified flow, which
    has neither fault. For a first-order sampler both give the same.

    Attributes:
        flow: Whether c = alpha_t + sigma_t.

    References:
        Karras et al., 2022, eq. 1 and appendix B.1, arXiv:2206.00364; Liu et al., 2022, eq. 1, arXiv:2209.03003.
    """

    flow: bool

    @staticmethod
    def of(path: Path) -> Straight:
        """Return the coordinates for a trajectory: EDM's, which the papers use, unless a step is too steep for them."""
        return Straight(path.steepness > 3.0)

    def scale(self, knot: Knot) -> float:
        """Return c at a noise level."""
        return knot.alpha + knot.sigma if self.flow else knot.alpha

    def slope(self, x: Tensor, clean: Tensor, knot: Knot) -> Tensor:
        """Return the slope dX / dtau: the noise with EDM's coordinates, noise minus clean latent with those of a flow.

        Args:
            x: x_t, `(B, C, h, w)`.
            clean: The clean estimate at x_t, `(B, C, h, w)`.
            knot: Noise level of x_t.

        Returns:
            The slope, `(B, C, h, w)`.
        """
        noise = (x - knot.alpha * clean) / knot.sigma
        return noise - clean if self.flow else noise

    def go(self, x: Tensor, slope: Tensor, here: Knot, there: Knot) -> Tensor:
        """Go along a slope.

        Args:
            x: x_t at the noise level `here`, `(B, C, h, w)`.
            slope: dX / dtau, `(B, C, h, w)`.
            here: Noise level at which the step starts.
            there: Lower noise level at which it ends.

        Returns:
            x_s at the noise level `there`, `(B, C, h, w)`.
        """
        before, after = self.scale(here), self.scale(there)
        return after * (x / before + (there.sigma / after - here.sigma / before) * slope)
