"""Laws of the order of samples: every one once, the same on any number of ranks, mixed, and found again from anywhere."""

import numpy as np
import pytest

from ldm.data.order.batch_sampler import Bucketed, Consecutive, Pass, RankBatches
from ldm.data.order.shuffle import BLOCK, Mixture, Shuffled

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
    order = Shuffled(COUNTS, seed=3, **shape)
    for epoch in range(3):
        draws = epoch_of(order, epoch)
        assert sorted(draws[:, 1]) == list(range(53))
        assert set(draws[:, 0]) == {epoch}


@pytest.mark.parametrize("shape", SHAPES)
def test_any_piece_is_found_without_what_comes_before(shape):
    order = Shuffled(COUNTS, seed=3, **shape)
    whole = epoch_of(order, 2)
    for start, stop in ((0, 1), (5, 17), (40, 53), (53, 53)):
        assert np.array_equal(Shuffled(COUNTS, seed=3, **shape).draws(2, start, stop), whole[start:stop])


@pytest.mark.parametrize("shape", SHAPES)
def test_order_changes_with_seed_and_epoch_and_nothing_else(shape):
    order = Shuffled(COUNTS, seed=3, **shape)
    assert np.array_equal(epoch_of(order, 0), epoch_of(Shuffled(COUNTS, seed=3, **shape), 0))
    assert not np.array_equal(epoch_of(order, 0)[:, 1], epoch_of(order, 1)[:, 1])
    assert not np.array_equal(epoch_of(order, 0), epoch_of(Shuffled(COUNTS, seed=4, **shape), 0))


def test_one_window_is_a_uniform_permutation():
    places = np.array([np.argsort(epoch_of(Shuffled([4, 4], seed=seed), 0)[:, 1]) for seed in range(2000)])
    share = np.stack([(places == place).mean(0) for place in range(8)])
    assert np.abs(share - 1 / 8).max() < 5 * np.sqrt(1 / 8 * 7 / 8 / 2000)


def test_streams_mix_distant_shards_and_read_few_at_a_time():
    counts = [100] * 64
    order = Shuffled(counts, seed=0, streams=8, window=100)
    draws = epoch_of(order, 0)[:, 1] // 100
    for start in range(0, 6400, 64):
        assert len(set(draws[start : start + 64])) >= 8, "a batch mixes shards"
    for rank in range(4):
        shards = [set(draws[start : start + 400][rank::4]) for start in range(0, 6400, 400)]
        assert max(map(len, shards)) <= 4, "but a rank reads few shards at a time"
    touched = [set(draws[rank::4]) for rank in range(4)]
    shared = sum(len(touched[a] & touched[b]) for a in range(4) for b in range(a))
    assert shared <= 8, "and none that another rank reads, but those at the borders of parts"


@pytest.mark.parametrize("shape", SHAPES)
def test_what_fills_no_step_is_others_in_other_epochs(shape):
    """Even of a single shard, every sample is seen sooner or later."""
    steps = Consecutive(Shuffled([103], seed=0, **shape), 50)
    seen = [set(steps.draws(epoch, step)[:, 1].tolist()) for epoch in range(60) for step in range(2)]
    assert set.union(*seen) == set(range(103))


def test_an_epoch_of_many_windows_is_dealt_in_linear_time():
    """A million samples in a thousand windows: the count of operations, as the number of windows computed."""
    order = Shuffled([1000] * 1000, seed=0, streams=10, window=1000)
    made = []
    shuffle = order._window
    order._window = lambda *a: made.append(a) or shuffle(*a)
    draws = order.draws(0, 0, len(order))
    assert len(made) == 1000
    assert np.array_equal(np.sort(draws[:, 1]), np.arange(10**6))


def test_mixture_keeps_its_shares_and_goes_through_every_part_whole():
    parts = [Shuffled([500], seed=0), Shuffled([30, 70], seed=1, first=500), Shuffled([400], seed=2, first=600)]
    order = Mixture(parts, [2, 1, 1], seed=5)
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
    assert np.array_equal(Mixture(parts, [2, 1, 1], seed=5).draws(1, 333, 777), draws[1333:1777])


def test_mixture_refuses_what_cannot_be():
    parts = [Shuffled([5], seed=0), Shuffled([5], seed=0, first=5)]
    with pytest.raises(ValueError, match="a weight above 0 for each"):
        Mixture(parts, [1, 0], seed=0)
    with pytest.raises(ValueError, match="less than one sample in 1000"):
        Mixture(parts, [1, 1e-5], seed=0)
    with pytest.raises(ValueError, match="empty"):
        Mixture([parts[0], Shuffled([], seed=0)], [1, 1], seed=0)


def plain(size=8, **shape):
    return Consecutive(Shuffled(COUNTS, seed=0, **shape), size)


def bucketed(size=8):
    return Bucketed(Shuffled(COUNTS, seed=0, window=10), size, np.arange(53) % 3)


def dealt(steps, epochs, *, world=1, accumulate=1, position=0):
    """The samples of each optimiser step, whoever reads them, as sorted lists; and what each rank reads, in order."""
    streams = [RankBatches(steps, accumulate=accumulate, rank=r, world=world, position=position) for r in range(world)]
    shares = [[draw for _ in range(epochs) for draw in stream] for stream in streams]
    assert len({len(share) for share in shares}) == 1, "every rank has as many batches"
    assert all(len(batch) == steps.size // (world * accumulate) for share in shares for batch in share)
    batches = [sorted(draw for share in shares for draw in share[k]) for k in range(len(shares[0]))]
    return [
        sorted(draw for batch in batches[k : k + accumulate] for draw in batch)
        for k in range(0, len(batches), accumulate)
    ]


@pytest.mark.parametrize("kind", [plain, bucketed])
def test_a_step_is_the_same_on_any_number_of_ranks(kind):
    one = dealt(kind(), 3)
    for world, accumulate in ((2, 1), (4, 1), (1, 4), (2, 2)):
        assert dealt(kind(), 3, world=world, accumulate=accumulate) == one


@pytest.mark.parametrize("kind", [plain, bucketed])
def test_an_epoch_has_no_sample_twice(kind):
    steps = kind()
    for epoch in range(3):
        numbers = [
            draw.number for step in dealt(steps, 3)[epoch * len(steps) : (epoch + 1) * len(steps)] for draw in step
        ]
        assert len(set(numbers)) == len(numbers) == len(steps) * 8
    assert len(plain()) == 53 // 8
    assert len(bucketed()) == 18 // 8 + 18 // 8 + 17 // 8


@pytest.mark.parametrize("kind", [plain, bucketed])
def test_a_stream_goes_on_where_it_stood(kind):
    steps = kind()
    whole = dealt(steps, 3)
    for position in (0, 1, len(steps) - 1, len(steps), len(steps) + 2):
        rest = 3 - position // len(steps)
        assert dealt(steps, rest, position=position) == whole[position:]
        assert dealt(steps, rest, position=position, world=4, accumulate=2) == whole[position:]


def test_a_step_is_of_one_bucket_and_comes_when_it_is_full():
    steps = bucketed()
    for step in dealt(steps, 2):
        assert len({draw.number % 3 for draw in step}) == 1
    order = [draw for _, draw in steps.order.draws(0, 0, 53)]
    last = [max(order.index(number) for _, number in steps.draws(0, step)) for step in range(len(steps))]
    assert last == sorted(last)


def test_too_little_data_for_a_step_is_an_error():
    with pytest.raises(ValueError, match="too little data for one step of 54 samples"):
        RankBatches(plain(54))


def test_a_pass_sees_every_sample_once():
    seen = [draw.number for rank in range(3) for batch in Pass(10, 2, rank=rank, world=3) for draw in batch]
    assert sorted(seen) == list(range(10))
    spread = [
        draw.number for rank in range(2) for batch in Pass(100, 2, rank=rank, world=2, limit=10) for draw in batch
    ]
    assert sorted(spread) == list(range(0, 100, 10))
    (batch,) = Pass(199, 100, limit=100)
    assert np.diff([draw.number for draw in batch]).max() == 2, "spread over all of them"
    assert batch[-1].number > 195
    assert len(Pass(10, 2, rank=0, world=3)) == len(list(Pass(10, 2, rank=0, world=3))) == 2
