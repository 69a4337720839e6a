"""Two forms of the probability flow ODE: in the noise level of EDM, and in the time of a rectified flow."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor

from ldm.sampler.trajectory import NoiseLevel, Trajectory


class OdeForm(ABC):
    """Coordinates of the probability flow ODE dX / dtau = slope, in which noise and data lie on a straight line.

    They are X = x_t / c and tau = sigma_t / c, with a scale c for each noise level. A first-order sampler gives the same in
    all of them.
    """

    @abstractmethod
    def scale(self, noise_level: NoiseLevel) -> float:
        """Return c at a noise level."""

    @abstractmethod
    def slope(self, x: Tensor, clean: Tensor, noise_level: NoiseLevel) -> Tensor:
        """Return the slope dX / dtau.

        Args:
            x: x_t, `(B, C, h, w)`.
            clean: The clean estimate at x_t, `(B, C, h, w)`.
            noise_level: Noise level of x_t.

        Returns:
            The slope, `(B, C, h, w)`.
        """

    def go(self, x: Tensor, slope: Tensor, here: NoiseLevel, there: NoiseLevel) -> Tensor:
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


class SigmaForm(OdeForm):
    """EDM's form: c = alpha_t, so that tau is the noise level sigma_t / alpha_t, and the slope is the noise.

    It cannot start from pure noise, and Heun's method is not stable in it if a step goes to less than a third of the noise
    level, because slopes change like 1 / tau.

    References:
        Karras et al., 2022, eq. 1 and appendix B.1, arXiv:2206.00364.
    """

    def scale(self, noise_level: NoiseLevel) -> float:
        """Return alpha_t."""
        return noise_level.alpha

    def slope(self, x: Tensor, clean: Tensor, noise_level: NoiseLevel) -> Tensor:
        """Return the predicted noise; see `OdeForm.slope`."""
        return (x - noise_level.alpha * clean) / noise_level.sigma


class FlowForm(OdeForm):
    """The form of flow matching: c = alpha_t + sigma_t, so that tau is the time of a rectified flow.

    The slope is the noise minus the clean latent. Unlike `SigmaForm` it can start from pure noise.

    References:
        Liu et al., 2022, eq. 1, arXiv:2209.03003.
    """

    def scale(self, noise_level: NoiseLevel) -> float:
        """Return alpha_t + sigma_t."""
        return noise_level.alpha + noise_level.sigma

    def slope(self, x: Tensor, clean: Tensor, noise_level: NoiseLevel) -> Tensor:
        """Return the noise minus the clean latent; see `OdeForm.slope`."""
        return (x - noise_level.alpha * clean) / noise_level.sigma - clean


def ode_form(trajectory: Trajectory) -> OdeForm:
    """Return the form for a trajectory: EDM's, which the papers use, unless a step is too steep for it."""
    return FlowForm() if trajectory.steepness > 3.0 else SigmaForm()
