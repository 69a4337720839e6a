import pytest
import torch

from ldm.callback.ema import EMA
from ldm.callback.randomness import mix


def test_average_warms_up_to_its_decay():
    ema = EMA(0.9)
    averaged, current = [torch.zeros(3)], [torch.ones(3)]
    expected = 0.0
    for count in range(1, 300):
        decay = min(0.9, (1 + count) / (10 + count))
        expected = decay * expected + (1 - decay)
        ema._average(averaged, current, torch.tensor(count))
        assert averaged[0][0] == pytest.approx(expected, abs=1e-5)
    assert expected > 0.999
    assert torch.equal(current[0], torch.ones(3))


def test_frozen_weights_stay_as_they_are_bitwise():
    weight = torch.randn(1000)
    averaged = [weight.clone()]
    for count in range(1, 50):
        EMA(0.99)._average(averaged, [weight], count)
    assert torch.equal(averaged[0], weight)


def test_decay_must_be_a_share():
    with pytest.raises(ValueError, match="decay"):
        EMA(1.0)


def test_mixed_seeds_differ_whatever_number_changes():
    seeds = {mix(seed, rank, step) for seed in range(10) for rank in range(10) for step in range(100)}
    assert len(seeds) == 10_000
    assert all(0 <= seed < 2**63 for seed in seeds)
