"""Batch samplers: which samples make up an optimiser step, and which of them a rank reads in which batch."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np
from torch.utils.data import Sampler

from ldm.data.order.shuffle import SampleOrder, SampleRef


class StepSequence(ABC):
    """An endless sequence of epochs of optimiser steps.

    Args:
        order: The order of the samples.
        size: The number of samples in a step, over all ranks and accumulated batches.
    """

    def __init__(self, order: SampleOrder, size: int) -> None:
        self.order = order
        self.size = size

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of steps in an epoch."""

    @abstractmethod
    def draws(self, epoch: int, step: int) -> np.ndarray:
        """Return the samples of a step.

        Args:
            epoch: The number of the epoch.
            step: The number of the step in the epoch.

        Returns:
            Epoch and number of each sample, `(size, 2)` int64.
        """


class ConsecutiveSteps(StepSequence):
    """Steps that take the samples of an order one after the other.

    The samples at the end of an epoch that do not fill a step are left out.

    Args:
        order: The order of the samples.
        size: The number of samples in a step, over all ranks and accumulated batches.
    """

    def __len__(self) -> int:
        return len(self.order) // self.size

    def draws(self, epoch: int, step: int) -> np.ndarray:
        """Return the samples of a step; see `Steps.draws`."""
        return self.order.draws(epoch, step * self.size, (step + 1) * self.size)


class BucketedSteps(StepSequence):
    """Steps whose samples belong to one bucket each, so that all images of a step have the same size.

    A step takes place when its last sample comes up in the order. The samples of each bucket that do not fill a step at
    the end of an epoch are left out.

    Args:
        order: The order of the samples.
        size: The number of samples in a step, over all ranks and accumulated batches.
        buckets: The number of each sample's bucket, `(N,)`.
    """

    def __init__(self, order: SampleOrder, size: int, buckets: np.ndarray) -> None:
        super().__init__(order, size)
        self.buckets = buckets
        self._epoch = lru_cache(2)(self._deal)

    def __len__(self) -> int:
        return int((np.bincount(self.buckets) // self.size).sum())

    def draws(self, epoch: int, step: int) -> np.ndarray:
        """Return the samples of a step; see `Steps.draws`."""
        draws: np.ndarray = self._epoch(epoch)[step]
        return draws

    def _deal(self, epoch: int) -> np.ndarray:
        """Return all steps of an epoch, `(steps, size, 2)`."""
        draws = self.order.draws(epoch, 0, len(self.order))
        bucket = self.buckets[draws[:, 1]]
        by_bucket = np.argsort(bucket, kind="stable")
        steps = np.concatenate(
            [
                part[: len(part) // self.size * self.size].reshape(-1, self.size)
                for part in np.split(by_bucket, np.flatnonzero(np.diff(bucket[by_bucket])) + 1)
            ]
        )
        dealt: np.ndarray = draws[steps[np.argsort(steps[:, -1])]]
        return dealt


class DistributedBatchSampler(Sampler[list[SampleRef]]):
    """A batch sampler that gives one rank its share of every step.

    Each iteration goes on from the present position to the end of its epoch; the next one begins the next epoch. The
    samples of a step are cut into `accumulate` equal parts, and rank r takes the samples r, r + world, r + 2 world, ...
    of each part. So a step has the same samples for any number of ranks and workers, and every rank has the same number
    of batches.

    Args:
        steps: The steps; their size is a multiple of `accumulate` times `world`.
        accumulate: The number of batches of a rank in a step.
        rank: The rank of this process.
        world: The number of processes.
        position: The number of optimiser steps since the start of training.

    Raises:
        ValueError: If an epoch has no step.
    """

    def __init__(
        self, steps: StepSequence, *, accumulate: int = 1, rank: int = 0, world: int = 1, position: int = 0
    ) -> None:
        if not len(steps):
            raise ValueError(
                f"there is too little data for one step of {steps.size} samples: data.train has {len(steps.order)} samples"
                f"{', and no bucket has enough' if len(steps.order) >= steps.size else ''}; set a smaller "
                "stage.autoencoder.batch_size or stage.diffusion.batch_size, or add data"
            )
        self.steps = steps
        self.accumulate = accumulate
        self.rank = rank
        self.world = world
        self.position = position

    def __len__(self) -> int:
        return len(self.steps) * self.accumulate

    def __iter__(self) -> Iterator[list[SampleRef]]:
        epoch, first = divmod(self.position, len(self.steps))
        self.position = (epoch + 1) * len(self.steps)
        for step in range(first, len(self.steps)):
            for part in np.split(self.steps.draws(epoch, step), self.accumulate):
                yield [SampleRef(*draw) for draw in part[self.rank :: self.world].tolist()]


class SequentialBatchSampler(Sampler[list[SampleRef]]):
    """A batch sampler that goes once through the samples in order, without shuffling.

    Rank r takes the samples r, r + world, r + 2 world, ...; its last batch may be smaller. With buckets the order is that of
    the buckets, and each batch is of one bucket; ranks may then differ in their numbers of batches, and the last of each
    bucket may be smaller.

    Args:
        samples: The number of samples.
        batch_size: The number of samples in a batch of this rank.
        rank: The rank of this process.
        world: The number of processes.
        limit: The largest number of samples over all ranks, evenly spaced. None: all.
        buckets: The number of each sample's bucket, `(N,)`. None: batches may be of any samples.
    """

    def __init__(
        self,
        samples: int,
        batch_size: int,
        *,
        rank: int = 0,
        world: int = 1,
        limit: int | None = None,
        buckets: np.ndarray | None = None,
    ) -> None:
        numbers = spread(samples, samples if limit is None else limit)
        if buckets is not None:
            numbers = sorted(numbers, key=lambda number: int(buckets[number]))
        self.numbers = numbers[rank::world]
        cuts = [0, len(self.numbers)]
        if buckets is not None:
            cuts = [0, *(np.flatnonzero(np.diff(buckets[list(self.numbers)])) + 1).tolist(), len(self.numbers)]
        self._parts = [
            slice(start, min(start + batch_size, end))
            for first, end in itertools.pairwise(cuts)
            for start in range(first, end, batch_size)
        ]

    def __len__(self) -> int:
        return len(self._parts)

    def __iter__(self) -> Iterator[list[SampleRef]]:
        for part in self._parts:
            yield [SampleRef(0, number) for number in self.numbers[part]]


def spread(count: int, limit: int) -> Sequence[int]:
    """Return at most `limit` of the numbers below `count`, evenly spaced."""
    if limit >= count:
        return range(count)
    return [step * count // limit for step in range(limit)]
