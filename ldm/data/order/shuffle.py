"""The order in which an epoch visits the samples: a function of seed and epoch alone.

Any part of it is computed when it is asked for, without what comes before.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

BLOCK = 1000
"""The number of samples in a block of a mixture; each block has the exact weights."""


class SampleRef(NamedTuple):
    """A reference to a sample in an epoch; the epoch decides random crops, flips and captions.

    Attributes:
        epoch: The number of the epoch.
        number: The number of the sample in the index.
    """

    epoch: int
    number: int


class SampleOrder(ABC):
    """An endless sequence of epochs of samples."""

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of samples in an epoch."""

    @abstractmethod
    def draws(self, epoch: int, start: int, stop: int) -> np.ndarray:
        """Return the samples at positions `start` to `stop` of an epoch.

        Args:
            epoch: The number of the epoch.
            start: The first position.
            stop: The position after the last one, at most `len(self)`.

        Returns:
            Epoch and number of each sample, `(stop - start, 2)` int64.
        """


class ShuffledOrder(SampleOrder):
    """An order that visits every sample once per epoch, shuffled within wide windows so that few shards are read at a time.

    Each epoch shuffles the shards and puts their samples in a row, which begins at a random place. The row is cut into
    `streams` equal parts, and the samples of each part are shuffled within windows of `window` samples. Position p of
    the epoch is the next sample of part p mod `streams`. So a batch mixes shards that are far apart; and with R ranks,
    where R divides `streams`, each rank reads only its own parts. The samples that the division leaves over come last.
    With one stream and a window that holds all samples, the order is a uniform random permutation.

    Args:
        counts: The number of samples in each shard.
        seed: The seed of the order; together with the number of the epoch, it decides everything.
        streams: The number of parts that are read side by side.
        window: The number of samples of a part that are shuffled together.
        first: The number of the first sample.

    Raises:
        ValueError: If `streams` or `window` is below 1.
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
        """Return the samples at positions `start` to `stop` of an epoch; see `SampleOrder.draws`."""
        positions = np.arange(start, stop)
        stream, index = positions % self.streams, positions // self.streams
        window, place = index // self.window, index % self.window
        row = stream * self.length + index - place  # the first place of the window
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
        """Return the numbers of samples from their places in the row of this epoch's shards, `(N,)` -> `(N,)`."""
        shards, ends, turn = self._shards(epoch)
        row = (row + turn) % max(1, len(self))
        place = np.searchsorted(ends, row, "right")
        shard = shards[place]
        numbers: np.ndarray = self.starts[shard] + row - (ends[place] - self.counts[shard])
        return numbers

    def _shuffle_shards(self, epoch: int) -> tuple[np.ndarray, np.ndarray, int]:
        """Put the shards in the order of an epoch.

        Returns:
            The shards in order, the place in the row of samples where each of them ends, and the place where the row
            begins.
        """
        rng = np.random.default_rng([self.seed, epoch, 0])
        shards = rng.permutation(len(self.counts))
        return shards, np.cumsum(self.counts[shards]), int(rng.integers(max(1, len(self))))

    def _shuffle_window(self, epoch: int, stream: int, window: int) -> np.ndarray:
        """Return the permutation of a window of one part of an epoch."""
        size = min(self.window, self.length - window * self.window)
        return np.random.default_rng([self.seed, epoch, 1, stream, window]).permutation(size)


class MixtureOrder(SampleOrder):
    """An order that mixes several data sets by weight.

    Each data set is visited completely, in its own order, before it begins again. An epoch of the mixture has as many
    samples as all data sets together. Each block of 1,000 samples has the exact weights, rounded to thousandths.

    Args:
        parts: Orders of the data sets; their sample numbers must not overlap.
        weights: The relative frequency of each data set.
        seed: The seed of the order in which the data sets take turns.

    Raises:
        ValueError: If a weight is missing, not above 0 or too small, or if a data set is empty.
    """

    def __init__(self, parts: Sequence[SampleOrder], weights: Sequence[float], *, seed: int) -> None:
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
        """Return the samples at positions `start` to `stop` of an epoch; see `SampleOrder.draws`."""
        first, last = epoch * len(self) + start, epoch * len(self) + stop
        blocks = [self._block(block) for block in range(first // BLOCK, -(-last // BLOCK))]
        begin = first // BLOCK * BLOCK
        part, turn = np.concatenate(blocks, axis=1)[:, first - begin : last - begin]
        result = np.empty((len(part), 2), np.int64)
        for index, order in enumerate(self.parts):
            result[part == index] = _endless(order, turn[part == index])
        return result

    def _block(self, block: int) -> np.ndarray:
        """Return one block of the mixture.

        Returns:
            For each sample of the block, the number of its data set, and how many samples of that data set came before
            it since the beginning of training, `(2, 1000)`.
        """
        parts = np.random.default_rng([self.seed, block, 2]).permutation(
            np.repeat(np.arange(len(self.parts)), self.quota)
        )
        turns = np.empty(BLOCK, np.int64)
        for index, quota in enumerate(self.quota):
            turns[parts == index] = block * quota + np.arange(quota)
        return np.stack([parts, turns])


def _endless(order: SampleOrder, turns: np.ndarray) -> np.ndarray:
    """Return samples of an order by their positions since the beginning of the first epoch.

    Args:
        order: The order.
        turns: Positions, `(N,)`.

    Returns:
        Epoch and number of each sample, `(N, 2)` int64.
    """
    result = np.empty((len(turns), 2), np.int64)
    epochs, positions = turns // len(order), turns % len(order)
    for epoch in np.unique(epochs):
        here = epochs == epoch
        start, stop = int(positions[here].min()), int(positions[here].max()) + 1
        result[here] = order.draws(int(epoch), start, stop)[positions[here] - start]
    return result


def evaluation_order(count: int) -> np.ndarray:
    """Return the order in which models are measured on some samples: shuffled, and always the same.

    Shards are often sorted, so that their first samples would stand for few of them.

    Args:
        count: Number of samples.

    Returns:
        Numbers of samples, `(count,)` int64.
    """
    return np.random.default_rng(0).permutation(count)
