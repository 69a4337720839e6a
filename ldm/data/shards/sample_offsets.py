"""The places of the samples of a shard, read from its index when they are asked for."""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

import numpy as np
from safetensors import safe_open

from ldm.data.shards.shard_index import ShardSummary


class Places(NamedTuple):
    """The places of the samples of a shard: bytes of all keys, ends of keys, offsets and sizes `(N, files)`.

    The files of a sample are its image, .txt, .json, and the parts that some sample of the shard has.
    """

    keys: np.ndarray
    key_ends: np.ndarray
    offsets: np.ndarray
    sizes: np.ndarray

    @property
    def nbytes(self) -> int:
        """The memory that the arrays take, in bytes."""
        return sum(array.nbytes for array in self)


class SampleOffsetsCache:
    """A cache of the byte ranges of the shards that were asked for last.

    Args:
        limit: The largest size of the cache in bytes; the shard that was asked for last is kept in any case.
    """

    def __init__(self, limit: int = 2**27) -> None:
        self.limit = limit
        self.held: OrderedDict[str, Places] = OrderedDict()
        self.size = 0

    def __call__(self, summary: ShardSummary) -> Places:
        """Return keys and byte ranges of the samples of a shard, from the cache if they are in it."""
        if summary.path not in self.held:
            with safe_open(summary.file, "np") as content:
                found = Places(*(content.get_tensor(name) for name in Places._fields))
            self.size += found.nbytes
            while self.held and self.size > self.limit:
                self.size -= self.held.popitem(last=False)[1].nbytes
            self.held[summary.path] = found
        self.held.move_to_end(summary.path)
        return self.held[summary.path]
