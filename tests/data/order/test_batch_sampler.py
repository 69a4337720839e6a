"""Laws of batch samplers: steps are the same on any number of ranks, and are found again from any position."""

import numpy as np
import pytest

from ldm.data.order.batch_sampler import (
    BucketedSteps,
    ConsecutiveSteps,
    DistributedBatchSampler,
    SequentialBatchSampler,
)
from ldm.data.order.shuffle import ShuffledOrder
from tests.data.order.test_shuffle import COUNTS, SHAPES


def plain(size=8, **shape):
    return ConsecutiveSteps(ShuffledOrder(COUNTS, seed=0, **shape), size)


def bucketed(size=8):
    return BucketedSteps(ShuffledOrder(COUNTS, seed=0, window=10), size, np.arange(53) % 3)


def dealt(steps, epochs, *, world=1, accumulate=1, position=0):
    """The samples of each optimiser step, whoever reads them, as sorted lists; and what each rank reads, in order."""
    streams = [
        DistributedBatchSampler(steps, accumulate=accumulate, rank=r, world=world, position=position)
        for r in range(world)
    ]
    fractions = [[draw for _ in range(epochs) for draw in stream] for stream in streams]
    assert len({len(fraction) for fraction in fractions}) == 1, "every rank has as many batches"
    assert all(len(batch) == steps.size // (world * accumulate) for fraction in fractions for batch in fraction)
    batches = [sorted(draw for fraction in fractions for draw in fraction[k]) for k in range(len(fractions[0]))]
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
    with pytest.raises(
        ValueError, match="one step of 54 samples: data.train has 53 samples; set .*diffusion.batch_size"
    ):
        DistributedBatchSampler(plain(54))
    with pytest.raises(ValueError, match="data.train has 53 samples, and no bucket has enough; set"):
        DistributedBatchSampler(BucketedSteps(plain(1).order, 40, np.arange(53) % 3))


def test_a_pass_sees_every_sample_once():
    seen = [
        draw.number
        for rank in range(3)
        for batch in SequentialBatchSampler(10, 2, rank=rank, world=3)
        for draw in batch
    ]
    assert sorted(seen) == list(range(10))
    spread = [
        draw.number
        for rank in range(2)
        for batch in SequentialBatchSampler(100, 2, rank=rank, world=2, limit=10)
        for draw in batch
    ]
    assert sorted(spread) == list(range(0, 100, 10))
    (batch,) = SequentialBatchSampler(199, 100, limit=100)
    assert np.diff([draw.number for draw in batch]).max() == 2, "spread over all of them"
    assert batch[-1].number > 195
    assert (
        len(SequentialBatchSampler(10, 2, rank=0, world=3))
        == len(list(SequentialBatchSampler(10, 2, rank=0, world=3)))
        == 2
    )


@pytest.mark.parametrize("shape", SHAPES)
def test_what_fills_no_step_is_others_in_other_epochs(shape):
    """Even of a single shard, every sample is seen sooner or later."""
    steps = ConsecutiveSteps(ShuffledOrder([103], seed=0, **shape), 50)
    seen = [set(steps.draws(epoch, step)[:, 1].tolist()) for epoch in range(60) for step in range(2)]
    assert set.union(*seen) == set(range(103))


@pytest.mark.parametrize(("world", "limit"), [(1, None), (2, None), (3, 20)])
def test_one_pass_over_buckets_has_each_sample_once_and_batches_of_one_bucket(world, limit):
    buckets = np.random.default_rng(0).integers(0, 4, 53)
    passes = [
        SequentialBatchSampler(53, 5, rank=rank, world=world, limit=limit, buckets=buckets) for rank in range(world)
    ]
    batches = [[[draw.number for draw in batch] for batch in one] for one in passes]
    assert [len(one) for one in passes] == [len(one) for one in batches]
    found = [number for one in batches for batch in one for number in batch]
    plain = SequentialBatchSampler(53, 5, limit=limit)
    assert sorted(found) == sorted(draw.number for batch in plain for draw in batch)
    assert all(len({int(buckets[number]) for number in batch}) == 1 for one in batches for batch in one)
    assert all(len(batch) <= 5 for one in batches for batch in one)
    shares = [sum(map(len, one)) for one in batches]
    assert max(shares) - min(shares) <= 1
