"""Data sets that are written at first use, and the values that their options can have."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from ldm.options import COUNT, SIZE, Real, Rule

SOURCE_OPTIONS: dict[str, Rule] = {
    "data.source.count": COUNT,
    "data.source.size": SIZE,
    "data.source.samples_per_shard": COUNT,
    "data.source.val_share": Real(0.0, 1.0, above=True),
}


class Source(Protocol):
    """A data set that can be written."""

    def write(self) -> Path:
        """Write `train-*.tar` and `val-*.tar`, unless they are there; returns their folder."""


def written_shards(source: Source, split: str) -> list[str]:
    """Return the paths of the shards of a split, "train" or "val", which are written first unless they are there."""
    return sorted(str(path) for path in source.write().glob(f"{split}-*.tar"))
