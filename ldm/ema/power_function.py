"""The mathematics of power-function averages: their lengths, and how one is computed from others.

Such an average of weights θ over the time (0, t] weighs time τ by the profile p(τ) = (γ + 1) τ^γ / t^(γ+1). Its length is
the standard deviation of τ under the profile as a fraction of t, the paper's sigma_rel. Averages are linear in their
profiles: if a sum of profiles with some coefficients is near another profile, then the sum of their averages with the same
coefficients is near that profile's average.

References:
    Karras et al., 2023, sections 3.1, 3.2 and appendix C, arXiv:2312.02696.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

LONGEST = 1.0 / math.sqrt(12.0)
"""The length for γ = 0, where all times weigh the same."""


class Profile(NamedTuple):
    """The weights that an average gives to times.

    Attributes:
        gamma: Exponent γ, greater than 0.
        step: Step t at which the average ends, 1 or more.
    """

    gamma: float
    step: int


class Match(NamedTuple):
    """A linear combination of profiles that is near a wished profile.

    Attributes:
        coefficients: A coefficient for each profile, `(N,)` in float64.
        residual: Norm of the difference to the wished profile, as a fraction of that profile's norm, in [0, 1].
    """

    coefficients: np.ndarray
    residual: float


def gamma_of(length: float) -> float:
    """Return the exponent γ of an average: the positive root of γ + 1 = length² (γ + 2)² (γ + 3), solved for x = γ + 2.

    Args:
        length: Length of the average, the paper's sigma_rel, between 0 and `LONGEST`.

    Raises:
        ValueError: Where no average has this length.

    References:
        Karras et al., 2023, section 3.1, arXiv:2312.02696.
    """
    if not 0 < length < LONGEST:
        raise ValueError(
            f"the length of a power-function average (sigma_rel) lies between 0 and {LONGEST:.7f}, where all steps weigh "
            f"the same; got {length}; the paper uses 0.05 and 0.1"
        )
    roots = np.roots([1.0, 1.0, -(length**-2), length**-2])
    return float(roots.real.max()) - 2.0


def decay_at(gamma: float, step: int) -> float:
    """Return the decay β_t = (1 - 1/t)^(γ+1) of the average at a step; the newest weights get 1 - β_t.

    Args:
        gamma: Exponent γ of the average.
        step: Step t of the newest weights: 1, 2, ...

    References:
        Karras et al., 2023, section 3.1, arXiv:2312.02696.
    """
    kept: float = (1.0 - 1.0 / step) ** (gamma + 1.0)
    return kept


def inner_products(a: Sequence[Profile], b: Sequence[Profile]) -> np.ndarray:
    """Return the inner products ∫ p_i q_j dτ of profiles.

    Where s ≤ t are the ends of the two profiles, and γ is the exponent of the later one, the product is

        (γ_i + 1) (γ_j + 1) / (γ_i + γ_j + 1) · (s / t)^γ / t

    in which no power is greater than 1, however great γ and t are.

    Args:
        a: N profiles p.
        b: M profiles q.

    Returns:
        `(N, M)` in float64.
    """
    gamma_a, step_a = np.array(a, np.float64).T[:, :, None]
    gamma_b, step_b = np.array(b, np.float64).T[:, None, :]
    later = np.where(step_a < step_b, gamma_b, gamma_a)
    end = np.maximum(step_a, step_b)
    scale = (gamma_a + 1.0) * (gamma_b + 1.0) / (gamma_a + gamma_b + 1.0)
    products: np.ndarray = scale * (np.minimum(step_a, step_b) / end) ** later / end
    return products


def match(profiles: Sequence[Profile], wished: Profile) -> Match:
    """Return the linear combination of profiles that is nearest to a wished profile by least squares.

    The equations are solved for profiles of norm 1, which have one size whatever their γ and t. Beyond the paper, the
    coefficients sum to 1, by a Lagrange multiplier: without it, weights that hardly move come out scaled. (On a random walk
    that begins ten times as far from zero as it is long, 24 snapshots of lengths 0.05 and 0.1 gave the average of length
    0.075 with an error of 1.6e-4 of the walk without the multiplier, 2.4e-5 with it; of length 0.2, 1.1e-2 and 4.4e-4.)

    Args:
        profiles: The N profiles that are combined.
        wished: The profile to come near to.

    References:
        Karras et al., 2023, appendix C, arXiv:2312.02696.
    """
    norms = np.sqrt(np.diag(inner_products(profiles, profiles)))
    norm = math.sqrt(inner_products([wished], [wished])[0, 0])
    gram = inner_products(profiles, profiles) / np.outer(norms, norms)
    shadow = inner_products(profiles, [wished])[:, 0] / (norms * norm)
    mass = norm / norms
    bordered = np.block([[gram, mass[:, None]], [mass[None], np.zeros((1, 1))]])
    solution = np.linalg.lstsq(bordered, np.append(shadow, 1.0), rcond=None)[0][:-1]
    missing = 1.0 - 2.0 * solution @ shadow + solution @ gram @ solution
    return Match(solution * mass, math.sqrt(max(missing, 0.0)))
