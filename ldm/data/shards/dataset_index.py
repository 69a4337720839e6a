"""The index of a data set: all samples of its shards that pass the filters, with numbers from 0."""

from __future__ import annotations

import hashlib
import json
import operator
import os
import re
from bisect import bisect_right
from collections.abc import Callable, Collection, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from ldm.batch import SkippedSample
from ldm.data.order.batch_sampler import spread
from ldm.data.shards.grouping import EXTRA, NO_CAPTION, Leftover, Sample
from ldm.data.shards.members import ABSENT, ByteRange
from ldm.data.shards.sample_offsets import SampleOffsetsCache
from ldm.data.shards.shard_index import ShardSummary, column, make, read

FEW_SHARDS = 8
"""The largest number of shards that are indexed without worker processes."""

MOST_PROCESSES = 16
"""The largest number of worker processes that index shards."""

COMPARISONS: dict[str, Callable[[np.ndarray, float], np.ndarray]] = {
    "<=": operator.le, ">=": operator.ge, "==": operator.eq, "!=": operator.ne, "<": operator.lt, ">": operator.gt,
}  # fmt: skip
FILTER = re.compile(r"\s*([\w.-]+)\s*(<=|>=|==|!=|<|>)\s*([-+.\deE]+)\s*")
"""A filter: a name, a comparison and a number."""


class DatasetIndex:
    """The index of a data set: all samples that pass the filters, numbered from 0 in the order of the shards.

    Args:
        shards: Summaries of the shards.
        filters: Conditions that a sample's numbers must meet, like "aesthetic > 5": each a name (a number of its .json, or
            width, height, side (the shorter) or ratio (width / height) of its image), one of < <= > >= == !=, a number.
        limit: At most so many of them, evenly spread; None: all.
        read: Endings of the parts that are read beside image, .txt and .json; all others are counted as leftovers.
    """

    def __init__(
        self,
        shards: Sequence[ShardSummary],
        filters: Sequence[str] = (),
        *,
        limit: int | None = None,
        read: Collection[str] = (),
    ) -> None:
        self.shards = list(shards)
        self.read = read
        self.filters = list(filters)
        self.limit: int | None = None
        self._failed: dict[str, tuple[int, int]] = {}
        self._places = SampleOffsetsCache()
        self._kept = self._keep() if filters else None
        if limit is not None:
            self._thin(limit)
        self.counts = np.array([shard.samples for shard in shards] if self._kept is None else [*map(len, self._kept)])
        self.stamps = {shard.path: shard.stamp for shard in shards}
        self._starts: list[int] = [0, *np.cumsum(self.counts).tolist()]
        if not len(self):
            raise ValueError(self._why_empty())

    def __len__(self) -> int:
        return self._starts[-1]

    def __getitem__(self, number: int) -> Sample:
        shard, row = self._locate(number)
        where = self._places(self.shards[shard])
        first, last = where.key_ends[row - 1] if row else 0, where.key_ends[row]
        key = where.keys[first:last].tobytes().decode(errors="surrogateescape")
        extents = map(ByteRange, where.offsets[row].tolist(), where.sizes[row].tolist())
        image, text, record, *others = extents
        parts = {ending: extent for ending, extent in zip(self.shards[shard].parts, others) if extent != ABSENT}
        return Sample(key, self.shards[shard].path, image, text, record, parts)

    def numbers_of(self, shard: int) -> range:
        """Return the numbers of the samples of a shard."""
        return range(self._starts[shard], self._starts[shard + 1])

    @property
    def encoding(self) -> dict[str, str]:
        """The facts that say how the latents in the shards were made; empty for images.

        Raises:
            ValueError: If shards were made in different ways.
        """
        known = {json.dumps(shard.encoding, sort_keys=True): shard for shard in self.shards if shard.samples}
        if len(known) > 1:
            first, second = list(known.values())[:2]
            raise ValueError(
                f"{first.path} and {second.path} were not made the same way: {first.encoding or 'images'}, "
                f"{second.encoding or 'images'}; train on one kind, encoded by one autoencoder"
            )
        return self.shards[0].encoding if known else {}

    @property
    def skipped(self) -> list[SkippedSample]:
        """The samples that were left out; an entry with the key "" stands for damage to a whole shard."""
        return [skip for shard in self.shards for skip in shard.skipped]

    @property
    def leftovers(self) -> list[tuple[SkippedSample, int]]:
        """Files that are not read, though no sample lacks them: the first of each shard and reason, and how many."""
        return [
            (Leftover(shard.path, first, reason), count)
            for shard in self.shards
            for reason, (count, first) in self._leftovers(shard).items()
        ]

    def _leftovers(self, shard: ShardSummary) -> dict[str, tuple[int, str]]:
        """Return the leftovers of a shard, among them the parts that are not read."""
        found = dict(shard.leftovers)
        for ending, (count, first) in shard.parts.items():
            if ending not in self.read:
                before, name = found.get(EXTRA, (0, first))
                found[EXTRA] = before + count, name
        return found

    def filters_message(self) -> str | None:
        """Return a message with the numbers of samples that pass the filters and that fail each of them; None without filters."""
        if not self.filters:
            return None
        held = sum(shard.samples for shard in self.shards)
        return f"{len(self) or 'none'} of {held} samples pass data.filters: " + ", ".join(
            f"{failed} fail {text!r}" + (f" ({without} without the number)" if without else "")
            for text, (failed, without) in self._failed.items()
        )

    @property
    def fingerprint(self) -> str:
        """A short hash of the samples in this order: of their keys, sizes and numbers, the filters and the limit.

        It does not depend on the folder or the names of the shards.
        """
        parts = [[shard.digest for shard in self.shards], self.filters, self.limit]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]

    def column(self, name: str) -> np.ndarray:
        """Return one number of every sample.

        Args:
            name: A number of the .json files, or `width`, `height`, `side` or `ratio` of the image.

        Returns:
            `(N,)` float64; NaN for a sample that does not have the number.
        """
        columns = [column(shard, name) for shard in self.shards]
        if self._kept is not None:
            columns = [values[kept] for values, kept in zip(columns, self._kept)]
        return np.concatenate(columns)

    def _thin(self, limit: int) -> None:
        """Keep `limit` samples, evenly spaced, if there are more."""
        kept = self._kept or [np.arange(shard.samples) for shard in self.shards]
        total = sum(map(len, kept))
        if total > limit:
            ends = np.cumsum([len(rows) for rows in kept])
            numbers = np.asarray(spread(total, limit))
            parts = np.split(numbers, np.searchsorted(numbers, ends)[:-1])
            self._kept = [rows[part - end + len(rows)] for rows, part, end in zip(kept, parts, ends)]
            self.limit = limit

    def _why_empty(self) -> str:
        """Return the error message for an index without samples."""
        held = sum(shard.samples for shard in self.shards)
        why = "; ".join(sorted({skip.reason for skip in self.skipped})) or "all are empty"
        if held:
            why = self.filters_message() or why
        first = ", ".join(shard.path for shard in self.shards[:3])
        advice = "ask for less, or give others" if held else "give shards that hold images with captions"
        if not held and any(skip.reason == NO_CAPTION for skip in self.skipped):
            advice += (
                ", or with labels or whatever is read beside them; images alone are enough for experiment=autoencoder and for "
                "unconditional models, like experiment=lsun_churches256"
            )
        return f"no samples in {len(self.shards)} shards ({first}): {why}; {advice}"

    def _locate(self, number: int) -> tuple[int, int]:
        """Return the number of the shard of a sample, and its row in the index of that shard."""
        if not 0 <= number < len(self):
            raise IndexError(f"sample {number} of {len(self)}")
        shard = bisect_right(self._starts, number) - 1
        row = number - self._starts[shard]
        return shard, row if self._kept is None else int(self._kept[shard][row])

    def _keep(self) -> list[np.ndarray]:
        """Return, for each shard, the rows of the samples that pass all filters."""
        known = {"width", "height", "side", "ratio"}.union(*(shard.numbers for shard in self.shards))
        masks = [np.ones(shard.samples, bool) for shard in self.shards]
        for text in self.filters:
            match = FILTER.fullmatch(text)
            if match is None:
                raise ValueError(f"the filter {text!r} is not of the form 'NAME > NUMBER' (or < <= >= == !=)")
            name, comparison, value = match.groups()
            if name not in known:
                raise ValueError(
                    f"the filter {text!r} asks for {name}, but samples have only {', '.join(sorted(known))}"
                )
            failed = without = 0
            for shard, mask in zip(self.shards, masks):
                numbers = column(shard, name)
                passed = COMPARISONS[comparison](numbers, float(value))
                failed += int((~passed).sum())
                without += int((~passed & np.isnan(numbers)).sum())
                mask &= passed
            self._failed[text] = failed, without
        return [np.flatnonzero(mask) for mask in masks]


def index_shards(shards: Sequence[str], cache: str | Path, *, alone: bool = False) -> list[ShardSummary]:
    """Return the summaries of shards, after making the indexes that are missing or stale.

    The index of a shard is the hidden file `.SHARD.tar.index` beside it or, if that folder cannot be written, a file in
    `cache`. It is stale if the size or the modification time of the shard has changed. Several processes may call this
    at the same time: one of them makes the indexes, and the others wait.

    Args:
        shards: Paths of the shards.
        cache: The folder for indexes that cannot lie beside their shards.
        alone: True if images alone are samples, since nothing but the image is needed; else they are left out, as images
            without a caption. They come after all other samples of their shard.

    Returns:
        One summary for each shard, in the same order.

    Raises:
        OSError: If a shard changes while it is indexed.
    """
    known = partial(read, cache=Path(cache), alone=alone)
    found = {shard: summary for shard in shards if (summary := known(shard))}
    missing = [shard for shard in shards if shard not in found]
    if missing:
        Path(cache).mkdir(parents=True, exist_ok=True)
        with FileLock(Path(cache) / ".lock"):
            _make([shard for shard in missing if not known(shard)], Path(cache))
        found |= {shard: summary for shard in missing if (summary := known(shard))}
    changed = [shard for shard in shards if shard not in found]
    if changed:
        raise OSError(f"{changed[0]} changed while it was indexed; start when all shards are written")
    return [found[shard] for shard in shards]


class _Making(Dataset[int]):
    """A map-style data set whose items make the index of a shard each.

    So the workers of a DataLoader make indexes in parallel.

    Args:
        shards: Paths of the shards.
        cache: The folder for indexes that cannot lie beside their shards.
    """

    def __init__(self, shards: Sequence[str], cache: Path) -> None:
        self.shards = shards
        self.cache = cache

    def __len__(self) -> int:
        return len(self.shards)

    def __getitem__(self, number: int) -> int:
        return make(self.shards[number], self.cache)


def _make(shards: Sequence[str], cache: Path) -> None:
    """Make the indexes of shards, in worker processes if there are many, and show the progress."""
    workers = min(MOST_PROCESSES, os.cpu_count() or 1, len(shards)) if len(shards) > FEW_SHARDS else 0
    own = torch.Generator()  # leaves the global generator as it is
    loader = DataLoader(_Making(shards, cache), batch_size=None, num_workers=workers, generator=own)
    with tqdm(total=len(shards), desc="indexing shards", unit="shard", disable=len(shards) <= FEW_SHARDS) as bar:
        samples = 0
        for count in loader:
            samples += count
            bar.set_postfix(samples=samples, refresh=False)
            bar.update()
