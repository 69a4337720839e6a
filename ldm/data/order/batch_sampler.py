"""Which samples make up which optimiser step, and which of them a rank reads in which batch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np
from torch.utils.data import Sampler

from ldm.data.order.shuffle import Draw, Order


class Steps(ABC):
    """An endless sequence of epochs of optimiser steps.

    size  samples a step, over all ranks and accumulated batches
    """

    def __init__(self, size: int) -> None:
        self.size = size

    @abstractmethod
    def __len__(self) -> int:
        """Steps an epoch."""

    @abstractmethod
    def draws(self, epoch: int, step: int) -> np.ndarray:
        """Epoch and number of a step's samples, `(size, 2)` int64."""


class Consecutive(Steps):
    """The samples of an order, one step after the other; what fills no step at the end of an epoch is left out."""

    def __init__(self, order: Order, size: int) -> None:
        super().__init__(size)
        self.order = order

    def __len__(self) -> int:
        return len(self.order) // self.size

    def draws(self, epoch: int, step: int) -> np.ndarray:
        return self.order.draws(epoch, step * self.size, (step + 1) * self.size)


class Bucketed(Steps):
    """Steps of samples of one bucket each. A step takes place when its last sample has come up in the order; of each
    bucket, what fills no step at the end of an epoch is left out.

    buckets  of each sample, `(N,)`
    """

    def __init__(self, order: Order, size: int, buckets: np.ndarray) -> None:
        super().__init__(size)
        self.order = order
        self.buckets = buckets
        self._epoch = lru_cache(2)(self._deal)

    def __len__(self) -> int:
        return int((np.bincount(self.buckets) // self.size).sum())

    def draws(self, epoch: int, step: int) -> np.ndarray:
        return self._epoch(epoch)[step]

    def _deal(self, epoch: int) -> np.ndarray:
        """All steps of an epoch, `(steps, size, 2)`."""
        draws = self.order.draws(epoch, 0, len(self.order))
        bucket = self.buckets[draws[:, 1]]
        by_bucket = np.argsort(bucket, kind="stable")
        steps = np.concatenate(
            [
                part[: len(part) // self.size * self.size].reshape(-1, self.size)
                for part in np.split(by_bucket, np.flatnonzero(np.diff(bucket[by_bucket])) + 1)
            ]
        )
        return draws[steps[np.argsort(steps[:, -1])]]


class RankBatches(Sampler[list[Draw]]):
    """Deals the batches of one rank: an endless sequence of epochs, of which iterating gives the rest of one.

    A step's samples are cut into `accumulate` equal parts, and of each part rank r takes every `world`-th from the r-th.
    So the samples of a step are the same whatever the number of ranks and workers, and every rank has as many batches.

    steps     whose size is a multiple of accumulate x world
    position  optimiser steps already made since the start of training
    """

    def __init__(self, steps: Steps, *, accumulate: int = 1, rank: int = 0, world: int = 1, position: int = 0) -> None:
        if not len(steps):
            raise ValueError(
                f"there is too little data for one step of {steps.size} samples; lower the batch size or add data"
            )
        self.steps = steps
        self.accumulate = accumulate
        self.rank = rank
        self.world = world
        self.position = position

    def __len__(self) -> int:
        return len(self.steps) * self.accumulate

    def __iter__(self) -> Iterator[list[Draw]]:
        epoch, first = divmod(self.position, len(self.steps))
        self.position = (epoch + 1) * len(self.steps)
        for step in range(first, len(self.steps)):
            for part in np.split(self.steps.draws(epoch, step), self.accumulate):
                yield [Draw(*draw) for draw in part[self.rank :: self.world].tolist()]


class Pass(Sampler[list[Draw]]):
    """One pass in order, every sample once: rank r takes each `world`-th from the r-th, the last batch may be short.

    batch_size  samples a batch, of this rank
    limit       at most so many samples, evenly spread; None: all
    """

    def __init__(
        self, samples: int, batch_size: int, *, rank: int = 0, world: int = 1, limit: int | None = None
    ) -> None:
        self.numbers = spread(samples, samples if limit is None else limit)[rank::world]
        self.batch_size = batch_size

    def __len__(self) -> int:
        return -(-len(self.numbers) // self.batch_size)

    def __iter__(self) -> Iterator[list[Draw]]:
        for start in range(0, len(self.numbers), self.batch_size):
            yield [Draw(0, number) for number in self.numbers[start : start + self.batch_size]]


def spread(count: int, limit: int) -> Sequence[int]:
    """At most `limit` of the numbers below `count`, evenly spread."""
    if limit >= count:
        return range(count)
    return [step * count // limit for step in range(limit)]
