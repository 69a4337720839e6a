"""Data sets that are written as tar shards when they are first used, and the values that their options can have."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from ldm.options.rule import COUNT, SIZE, Real, Rule

if TYPE_CHECKING:
    from ldm.data.shards.names import StoredSample

SOURCE_OPTIONS: dict[str, Rule] = {
    "data.source.count": COUNT,
    "data.source.size": SIZE,
    "data.source.scenes": COUNT,
    "data.source.val_scenes": COUNT,
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


def write_once(folder: Path, splits: Mapping[str, Iterable[StoredSample]], *, samples_per_shard: int) -> Path:
    """Write the shards of a data set, if its folder does not exist yet; several processes may do so at the same time.

    Args:
        folder: The folder of the shards, which appears whole or not at all.
        splits: "train" and "val" -> samples, as `write_shards` takes them; they are made only where they are written.
        samples_per_shard: The largest number of samples in a shard.

    Returns:
        The folder.
    """
    from ldm.data.shards.names import write_shards  # imported here: it loads torch, which --help does not need

    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=".icons-", dir=folder.parent))
        try:
            for split, samples in splits.items():
                write_shards(samples, draft, split, samples_per_shard=samples_per_shard)
            draft.rename(folder)
        except OSError:
            if not folder.is_dir():  # otherwise, another process was faster
                raise
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    return folder
