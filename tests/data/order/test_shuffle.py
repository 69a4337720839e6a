"""Laws of shuffling: every sample once an epoch, mixed, and found again from any position."""

import numpy as np
import pytest

from ldm.data.order.shuffle import BLOCK, MixtureOrder, ShuffledOrder

COUNTS = [7, 0, 13, 1, 20, 12]

SHAPES = [
    {"streams": 1, "window": 1000},
    {"streams": 1, "window": 8},
    {"streams": 4, "window": 5},
    {"streams": 64, "window": 9},
]


def epoch_of(order, epoch):
    return order.draws(epoch, 0, len(order))


@pytest.mark.parametrize("shape", SHAPES)
def test_every_sample_comes_once_an_epoch(shape):
    order = ShuffledOrder(COUNTS, seed=3, **shape)
    for epoch in range(3):
        draws = epoch_of(order, epoch)
        assert sorted(draws[:, 1]) == list(range(53))
        assert set(draws[:, 0]) == {epoch}


@pytest.mark.parametrize("shape", SHAPES)
def test_any_piece_is_found_without_what_comes_before(shape):
    order = ShuffledOrder(COUNTS, seed=3, **shape)
    whole = epoch_of(order, 2)
    for start, stop in ((0, 1), (5, 17), (40, 53), (53, 53)):
        assert np.array_equal(ShuffledOrder(COUNTS, seed=3, **shape).draws(2, start, stop), whole[start:stop])


@pytest.mark.parametrize("shape", SHAPES)
def test_order_changes_with_seed_and_epoch_and_nothing_else(shape):
    order = ShuffledOrder(COUNTS, seed=3, **shape)
    assert np.array_equal(epoch_of(order, 0), epoch_of(ShuffledOrder(COUNTS, seed=3, **shape), 0))
    assert not np.array_equal(epoch_of(order, 0)[:, 1], epoch_of(order, 1)[:, 1])
    assert not np.array_equal(epoch_of(order, 0), epoch_of(ShuffledOrder(COUNTS, seed=4, **shape), 0))


def test_one_window_is_a_uniform_permutation():
    places = np.array([np.argsort(epoch_of(ShuffledOrder([4, 4], seed=seed), 0)[:, 1]) for seed in range(2000)])
    fraction = np.stack([(places == place).mean(0) for place in range(8)])
    assert np.abs(fraction - 1 / 8).max() < 5 * np.sqrt(1 / 8 * 7 / 8 / 2000)


def test_streams_mix_distant_shards_and_read_few_at_a_time():
    counts = [100] * 64
    order = ShuffledOrder(counts, seed=0, streams=8, window=100)
    draws = epoch_of(order, 0)[:, 1] // 100
    for start in range(0, 6400, 64):
        assert len(set(draws[start : start + 64])) >= 8, "a batch mixes shards"
    for rank in range(4):
        shards = [set(draws[start : start + 400][rank::4]) for start in range(0, 6400, 400)]
        assert max(map(len, shards)) <= 4, "but a rank reads few shards at a time"
    touched = [set(draws[rank::4]) for rank in range(4)]
    shared = sum(len(touched[a] & touched[b]) for a in range(4) for b in range(a))
    assert shared <= 8, "and none that another rank reads, but those at the borders of parts"


def test_an_epoch_of_many_windows_is_dealt_in_linear_time():
    """A million samples in a thousand windows: the count of operations, as the number of windows computed."""
    order = ShuffledOrder([1000] * 1000, seed=0, streams=10, window=1000)
    made = []
    shuffle = order._window
    order._window = lambda *a: made.append(a) or shuffle(*a)
    draws = order.draws(0, 0, len(order))
    assert len(made) == 1000
    assert np.array_equal(np.sort(draws[:, 1]), np.arange(10**6))


def test_mixture_keeps_its_shares_and_goes_through_every_part_whole():
    parts = [
        ShuffledOrder([500], seed=0),
        ShuffledOrder([30, 70], seed=1, first=500),
        ShuffledOrder([400], seed=2, first=600),
    ]
    order = MixtureOrder(parts, [2, 1, 1], seed=5)
    draws = np.concatenate([epoch_of(order, epoch) for epoch in range(4)])
    assert len(draws) == 4000
    part = np.digitize(draws[:, 1], [500, 600])
    for block in range(4):
        assert np.bincount(part[block * BLOCK : (block + 1) * BLOCK]).tolist() == [500, 250, 250]
    assert abs(np.bincount(part[:200])[0] - 100) < 40, "mixed within a block, too"
    for index, (first, size) in enumerate([(0, 500), (500, 100), (600, 400)]):
        seen = draws[part == index]
        for turn in range(len(seen) // size):
            assert sorted(seen[turn * size : (turn + 1) * size, 1]) == list(range(first, first + size))
            assert set(seen[turn * size : (turn + 1) * size, 0]) == {turn}
    assert np.array_equal(MixtureOrder(parts, [2, 1, 1], seed=5).draws(1, 333, 777), draws[1333:1777])


def test_mixture_refuses_what_cannot_be():
    parts = [ShuffledOrder([5], seed=0), ShuffledOrder([5], seed=0, first=5)]
    with pytest.raises(ValueError, match="a weight above 0 for each"):
        MixtureOrder(parts, [1, 0], seed=0)
    with pytest.raises(ValueError, match="less than one sample in 1000"):
        MixtureOrder(parts, [1, 1e-5], seed=0)
    with pytest.raises(ValueError, match="empty"):
        MixtureOrder([parts[0], ShuffledOrder([], seed=0)], [1, 1], seed=0)
