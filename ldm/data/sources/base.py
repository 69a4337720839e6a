"""Data sets that are written as tar shards when they are first used, and the values that their options can have."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from ldm.options.rule import COUNT, SIZE, Real, Rule

SOURCE_OPTIONS: dict[str, Rule] = {
    "data.source.count": COUNT,
    "data.source.size": SIZE,
    "data.source.samples_per_shard": COUNT,
    "data.source.val_fraction": Real(0.0, 1.0, above=True),
}
"""Full name of an option -> rule for its values."""


class DataSource(Protocol):
    """A data set that can write itself as tar shards."""

    def write(self) -> Path:
        """Write the shards `train-*.tar` and `val-*.tar`, if they do not exist yet.

        Returns:
            The folder of the shards.
        """


def written_shards(source: DataSource, split: str) -> list[str]:
    """Return the paths of the shards of a split, which are written first if they do not exist yet.

    Args:
        source: The data set.
        split: "train" or "val".
    """
    return sorted(str(path) for path in source.write().glob(f"{split}-*.tar"))
