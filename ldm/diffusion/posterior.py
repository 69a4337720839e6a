"""One step of the reverse process, if the clean latent were known."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

Number = float | Tensor


class Posterior(NamedTuple):
    """x_s given x_t and the clean latent x is normal, with mean `of_noisy * x_t + of_clean * x` and variance `lower`.

    upper  the variance if nothing were known about x but that it has unit variance: the other bound of what is sensible

    Paper: Ho et al., 2020, eq. 7, arXiv:2006.11239; Kingma et al., 2021, appendix A.2, arXiv:2107.00630.
    """

    of_noisy: Number
    of_clean: Number
    lower: Number
    upper: Number


def posterior(alpha_t: Number, sigma_t: Number, alpha_s: Number, sigma_s: Number) -> Posterior:
    """From time t to an earlier time s. All broadcast; sigma_t and alpha_s are not zero."""
    ratio = (alpha_t * sigma_s) / (alpha_s * sigma_t)
    gone = 1.0 - ratio**2
    return Posterior(ratio * sigma_s / sigma_t, alpha_s * gone, sigma_s**2 * gone, sigma_t**2 * gone)
