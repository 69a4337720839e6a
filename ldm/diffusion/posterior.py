"""The posterior q(x_s | x_t, x) of one step of the reverse process."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

Number = float | Tensor
"""A number, or a tensor that broadcasts."""


class TransitionPosterior(NamedTuple):
    """The Gaussian posterior q(x_s | x_t, x) of a less noisy latent x_s, given x_t and the clean latent x.

    Its mean is `of_noisy * x_t + of_clean * x` and its variance is `lower`.

    Attributes:
        of_noisy: Coefficient of x_t in the mean.
        of_clean: Coefficient of the clean latent x in the mean.
        lower: The variance, which is the lower bound of what is sensible for a learned variance.
        upper: The variance if nothing is known about x except that it has unit variance: the upper bound.

    References:
        Ho et al., 2020, eq. 7, arXiv:2006.11239; Kingma et al., 2021, appendix A.2, arXiv:2107.00630.
    """

    of_noisy: Number
    of_clean: Number
    lower: Number
    upper: Number


def posterior(alpha_t: Number, sigma_t: Number, alpha_s: Number, sigma_s: Number) -> TransitionPosterior:
    """Return the posterior of a step from timestep t to an earlier timestep s.

    All arguments are numbers, or tensors that broadcast.

    Args:
        alpha_t: alpha at t.
        sigma_t: sigma at t, not zero.
        alpha_s: alpha at s, not zero.
        sigma_s: sigma at s.

    Returns:
        The coefficients and variances of the posterior.
    """
    ratio = (alpha_t * sigma_s) / (alpha_s * sigma_t)
    gone = 1.0 - ratio**2
    return TransitionPosterior(ratio * sigma_s / sigma_t, alpha_s * gone, sigma_s**2 * gone, sigma_t**2 * gone)
