import math

import pytest
import torch

from ldm.sampler.noise import SeededNoise


def test_noise_belongs_to_the_seed_bitwise():
    alone, together = SeededNoise([7]), SeededNoise([3, 7, 9])
    for _ in range(3):
        assert torch.equal(alone.draw((4, 8, 8))[0], together.draw((4, 8, 8))[1])
    assert not torch.equal(SeededNoise([1]).draw((4,)), SeededNoise([2]).draw((4,)))


def test_noise_between_a_seed_and_itself_is_its_noise():
    fractions = [0.0, 0.25, 0.5, 1.0]
    assert torch.equal(
        SeededNoise([3] * 4).interpolation([3] * 4, fractions).draw((4, 8, 8)), SeededNoise([3] * 4).draw((4, 8, 8))
    )


def test_noise_between_two_seeds_is_noise_and_ends_at_both():
    fractions = [0.0, 0.25, 0.5, 1.0]
    got = SeededNoise([1] * 4).interpolation([2] * 4, fractions).draw((4, 64, 64))
    first, second = SeededNoise([1, 2]).draw((4, 64, 64))
    assert torch.equal(got[0], first)
    torch.testing.assert_close(got[3], second, atol=1e-6, rtol=0)
    assert all(float(part.std()) == pytest.approx(1, abs=0.02) for part in got)
    correlation = [float(torch.corrcoef(torch.stack([part.flatten(), first.flatten()]))[0, 1]) for part in got]
    assert correlation == pytest.approx([math.cos(fraction * math.pi / 2) for fraction in fractions], abs=0.03)
