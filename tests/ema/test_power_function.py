"""Laws of power-function profiles."""

import math

import numpy as np
import pytest

from ldm.ema.power_function import LONGEST, Profile, decay_at, gamma_of, inner_products, match

LENGTHS = [1e-4, 0.01, 0.05, 0.1, 0.2, 0.288]


def length_of(gamma):
    """Karras et al., 2023, section 3.1, arXiv:2312.02696."""
    return math.sqrt(gamma + 1.0) / ((gamma + 2.0) * math.sqrt(gamma + 3.0))


def midpoints(count=200_000):
    """Of (0, 1]."""
    return (np.arange(count) + 0.5) / count


def values(profile, time):
    """The profile at times from 0 on; beyond its end it is 0."""
    fraction = time / profile.step
    return np.where(fraction <= 1, (profile.gamma + 1) / profile.step * np.minimum(fraction, 1) ** profile.gamma, 0)


@pytest.mark.parametrize("length", LENGTHS)
def test_exponent_and_length_are_inverse(length):
    assert length_of(gamma_of(length)) == pytest.approx(length, rel=1e-12)
    assert gamma_of(length) > 0


def test_exponents_of_the_paper():
    assert gamma_of(0.05) == pytest.approx(16.97, abs=0.01)
    assert gamma_of(0.1) == pytest.approx(6.94, abs=0.01)
    assert length_of(0.0) == LONGEST


@pytest.mark.parametrize("length", [0.01, 0.05, 0.2])
def test_length_is_the_standard_deviation_as_a_share_of_the_time(length):
    time = midpoints()
    weight = values(Profile(gamma_of(length), 1), time) / len(time)
    mean = weight @ time
    assert weight.sum() == pytest.approx(1, rel=1e-6)
    assert math.sqrt(weight @ (time - mean) ** 2) == pytest.approx(length, rel=1e-5)


@pytest.mark.parametrize("length", [0, -0.1, LONGEST, 0.5, math.nan])
def test_lengths_that_no_average_has_are_refused(length):
    with pytest.raises(ValueError, match=r"lies between 0 and 0.2886751, .*; got"):
        gamma_of(length)


@pytest.mark.parametrize("length", [0.01, 0.1, 0.25])
def test_the_recursion_weighs_steps_by_the_integral_of_the_profile(length):
    """What step t adds is worth (t^(γ+1) - (t-1)^(γ+1)) / T^(γ+1) in the end."""
    gamma, steps = gamma_of(length), 300
    weight = np.zeros(steps)
    for step in range(1, steps + 1):
        decay = decay_at(gamma, step)
        weight *= decay
        weight[step - 1] = 1 - decay
    np.testing.assert_allclose(weight, np.diff((np.arange(steps + 1) / steps) ** (gamma + 1)), atol=1e-14)


def test_inner_products_are_the_integrals():
    profiles = [Profile(gamma, step) for gamma in (0.5, 6.9, 17.0) for step in (3, 7, 10)]
    time = midpoints() * 10
    sampled = np.stack([values(profile, time) for profile in profiles])
    np.testing.assert_allclose(inner_products(profiles, profiles[:4]), sampled @ sampled[:4].T * 5e-5, rtol=2e-4)


def test_great_exponents_and_times_stay_finite():
    profiles = [Profile(gamma, step) for gamma in (1e-3, 17.0, 1e5) for step in (1, 1000, 10**9)]
    products = inner_products(profiles, profiles)
    assert np.isfinite(products).all()
    np.testing.assert_array_equal(products, products.T)
    found = match(profiles, Profile(30.0, 10**9))
    assert np.isfinite(found.coefficients).all()
    assert 0 <= found.residual <= 1


def profiles_every(steps, *, end, lengths=(0.05, 0.1)):
    return [Profile(gamma_of(length), step) for step in range(steps, end + 1, steps) for length in lengths]


def test_a_profile_that_is_there_is_taken_as_it_is():
    profiles = profiles_every(1000, end=200_000)
    for place in (-1, -2):
        found = match(profiles, profiles[place])
        assert found.residual < 1e-7
        expected = np.zeros(len(profiles))
        expected[place] = 1
        np.testing.assert_allclose(found.coefficients, expected, atol=1e-6)


def test_more_snapshots_match_better_and_the_weights_sum_to_one():
    wished = Profile(gamma_of(0.075), 9600)
    matches = [match(profiles_every(9600 // count, end=9600), wished) for count in (6, 24, 96)]
    assert [found.coefficients.sum() for found in matches] == pytest.approx([1] * 3, abs=1e-12)
    residuals = [found.residual for found in matches]
    assert residuals == pytest.approx([2e-2, 1.6e-3, 1e-4], rel=0.2)
