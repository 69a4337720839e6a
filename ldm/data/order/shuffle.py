"""In which order the samples of an epoch are seen: a function of seed and epoch alone, computed where it is asked for."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

BLOCK = 1000
"""Weights of a mixture are kept in every run of so many samples."""


class Draw(NamedTuple):
    """Which sample to read, and in which epoch: the epoch decides random crops, flips and captions."""

    epoch: int
    number: int


class Order(ABC):
    """An endless sequence of epochs of samples."""

    @abstractmethod
    def __len__(self) -> int:
        """Samples an epoch."""

    @abstractmethod
    def draws(self, epoch: int, start: int, stop: int) -> np.ndarray:
        """Epoch and number of the samples at positions `start` to `stop` of an epoch, `(stop - start, 2)` int64.

        stop  at most `len(self)`
        """


class Shuffled(Order):
    """Every sample once an epoch, shuffled within wide windows, so that only few shards are read at a time.

    Each epoch puts the shards in a new order, lets the row of their samples begin anywhere, cuts it into `streams` equal
    parts, and permutes each part within windows of `window` samples. Position p is the next sample of part p mod `streams`,
    so that a batch mixes distant shards, and that with R ranks, R a divisor of `streams`, a rank reads but its own parts.
    What is left over by the division comes last. With one stream and a window that holds all, it is a uniform permutation.

    counts   samples of each shard
    seed     of the order, with the number of the epoch
    streams  parts that are read side by side
    window   samples of a part that are shuffled together
    first    number of the first sample
    """

    def __init__(
        self, counts: Sequence[int] | np.ndarray, *, seed: int, streams: int = 1, window: int = 100_000, first: int = 0
    ) -> None:
        if streams < 1 or window < 1:
            raise ValueError(f"streams and window are at least 1; got streams={streams}, window={window}")
        self.counts = np.asarray(counts, np.int64)
        self.starts = np.cumsum(self.counts) - self.counts + first
        self.seed = seed
        self.length = int(self.counts.sum()) // streams
        self.streams = streams if self.length else 1
        self.length = self.length or len(self)
        self.window = window
        self._shards = lru_cache(2)(self._shuffle_shards)
        self._window = lru_cache(2 * self.streams)(self._shuffle_window)

    def __len__(self) -> int:
        return int(self.counts.sum())

    def draws(self, epoch: int, start: int, stop: int) -> np.ndarray:
        positions = np.arange(start, stop)
        stream, index = positions % self.streams, positions // self.streams
        window, place = index // self.window, index % self.window
        row = stream * self.length + index - place  # where the window begins
        by_window = np.lexsort((window, stream))
        ends = np.flatnonzero(np.diff(row[by_window])) + 1
        for group in np.split(by_window, ends):
            if len(group) and index[group[0]] < self.length:
                shuffled = self._window(epoch, int(stream[group[0]]), int(window[group[0]]))
                within = index[group] < self.length
                row[group[within]] += shuffled[place[group[within]]]
        row = np.where(index < self.length, row, positions)
        return np.stack([np.full(len(row), epoch), self._number(epoch, row)], axis=1)

    def _number(self, epoch: int, row: np.ndarray) -> np.ndarray:
        """Numbers of samples from their places in the row of this epoch's shards."""
        shards, ends, turn = self._shards(epoch)
        row = (row + turn) % max(1, len(self))
        place = np.searchsorted(ends, row, "right")
        shard = shards[place]
        return self.starts[shard] + row - (ends[place] - self.counts[shard])

    def _shuffle_shards(self, epoch: int) -> tuple[np.ndarray, np.ndarray, int]:
        """The shards in this epoch's order, where each ends in the row of all samples, and where that row begins."""
        chance = np.random.default_rng([self.seed, epoch, 0])
        shards = chance.permutation(len(self.counts))
        return shards, np.cumsum(self.counts[shards]), int(chance.integers(max(1, len(self))))

    def _shuffle_window(self, epoch: int, stream: int, window: int) -> np.ndarray:
        size = min(self.window, self.length - window * self.window)
        return np.random.default_rng([self.seed, epoch, 1, stream, window]).permutation(size)


class Mixture(Order):
    """Several data sets, mixed in given shares; each is gone through whole, in its own order, before it begins again.

    An epoch of the mixture is as many samples as all data sets have together. Each run of 1,000 samples holds the shares
    exactly, as far as they are whole thousandths.

    parts    orders of the data sets; their numbers must not overlap
    weights  how often each is drawn from, in any unit
    seed     of the order in which they take turns
    """

    def __init__(self, parts: Sequence[Order], weights: Sequence[float], *, seed: int) -> None:
        if len(parts) != len(weights) or not all(weight > 0 for weight in weights):
            raise ValueError(
                f"a mixture needs a weight above 0 for each data set; got {list(weights)} for {len(parts)}"
            )
        if not all(map(len, parts)):
            raise ValueError(f"a data set of a mixture is empty; samples are {list(map(len, parts))}: leave it out")
        self.parts = list(parts)
        self.seed = seed
        exact = np.asarray(weights, np.float64) / sum(weights) * BLOCK
        self.quota = np.floor(exact).astype(np.int64)
        self.quota[np.argsort(self.quota - exact, kind="stable")[: BLOCK - self.quota.sum()]] += 1
        if not self.quota.all():
            raise ValueError(
                f"the weights {list(weights)} give a data set less than one sample in {BLOCK}; raise it or leave it out"
            )

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    def draws(self, epoch: int, start: int, stop: int) -> np.ndarray:
        first, last = epoch * len(self) + start, epoch * len(self) + stop
        blocks = [self._block(block) for block in range(first // BLOCK, -(-last // BLOCK))]
        begin = first // BLOCK * BLOCK
        part, turn = np.concatenate(blocks, axis=1)[:, first - begin : last - begin]
        result = np.empty((len(part), 2), np.int64)
        for index, order in enumerate(self.parts):
            result[part == index] = _endless(order, turn[part == index])
        return result

    def _block(self, block: int) -> np.ndarray:
        """For each sample of a run of 1,000: which data set, and which of its samples from the beginning, `(2, 1000)`."""
        parts = np.random.default_rng([self.seed, block, 2]).permutation(
            np.repeat(np.arange(len(self.parts)), self.quota)
        )
        turns = np.empty(BLOCK, np.int64)
        for index, quota in enumerate(self.quota):
            turns[parts == index] = block * quota + np.arange(quota)
        return np.stack([parts, turns])


def _endless(order: Order, turns: np.ndarray) -> np.ndarray:
    """Draws of an order by their count from the beginning of the first epoch, `(N,)` -> `(N, 2)`."""
    result = np.empty((len(turns), 2), np.int64)
    epochs, positions = turns // len(order), turns % len(order)
    for epoch in np.unique(epochs):
        here = epochs == epoch
        start, stop = int(positions[here].min()), int(positions[here].max()) + 1
        result[here] = order.draws(int(epoch), start, stop)[positions[here] - start]
    return result
