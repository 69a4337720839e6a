"""Shards that are written anew, one for one, from those of a data set: `ldm.encode` and `ldm.data.neighbors` share this."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any, TypeAlias

from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from ldm.batch import Batch
from ldm.config import differences
from ldm.data.bad_samples import BadSampleCounter
from ldm.data.shards.dataset_index import DatasetIndex
from ldm.files.whole import write_whole
from ldm.options.arguments import quote_texts

Piece: TypeAlias = tuple[Batch, list[dict[str, bytes]]]
"""Some samples of a shard, without the broken ones, and for each its files that stay as they are, by ending."""


class _Pieces(Dataset[Piece]):
    """Pieces of shards, for worker processes."""

    def __init__(self, read: Callable[[Sequence[int]], Piece], chunks: Sequence[Sequence[int]]) -> None:
        self.read = read
        self.chunks = chunks

    def __len__(self) -> int:
        return len(self.chunks)

    def __getitem__(self, number: int) -> Piece:
        return self.read(self.chunks[number])


@dataclass
class ShardRewriting:
    """Shards that are written anew: yields the number of each shard whose file is missing, with its pieces, to write it from.

    Args:
        index: The samples.
        files: Number of a shard -> the file to be written for it.
        read: Reads the samples with some numbers, in worker processes.
        batch_size: Samples of a piece, at most.
        workers: Number of worker processes.
        bad_samples: Counts samples that cannot be read.
        description: The text of the progress bar.
        quiet: Whether there is no progress bar.

    Attributes:
        done: The number of shards written and kept, and of the shards written that of samples, and of what was left out, by the
            reason.
    """

    index: DatasetIndex
    files: Mapping[int, Path]
    read: Callable[[Sequence[int]], Piece]
    batch_size: int
    workers: int
    bad_samples: BadSampleCounter
    description: str
    quiet: bool = False
    done: Counter[str] = field(init=False, default_factory=Counter)

    def __iter__(self) -> Iterator[tuple[int, Iterator[Piece]]]:
        shards = missing(self.files)
        self.done.update({"shards written": len(shards), "shards kept": len(self.files) - len(shards)})
        for shard in shards:
            self.done.update(_left_out(self.index, shard))
        chunks = [
            (shard, chunk) for shard in shards for chunk in _chunks(self.index.numbers_of(shard), self.batch_size)
        ]
        total = sum(len(chunk) for _, chunk in chunks)
        loader = DataLoader(_Pieces(self.read, [chunk for _, chunk in chunks]), None, num_workers=self.workers)
        with tqdm(total=total, desc=self.description, unit="image", disable=self.quiet) as bar:
            numbered = zip((shard for shard, _ in chunks), loader)
            for shard, pieces in groupby(numbered, key=itemgetter(0)):
                yield shard, self._counted((piece for _, piece in pieces), bar)

    def _counted(self, pieces: Iterable[Piece], bar: tqdm) -> Iterator[Piece]:
        """Yield pieces, and count their samples."""
        for batch, files in pieces:
            self.done.update({"samples": len(batch.key), **Counter(skip.reason for skip in batch.skipped)})
            self.bad_samples.count(len(batch.key), batch.skipped, bar.total)
            yield batch, files
            bar.update(len(batch.key) + len(batch.skipped))


def missing(files: Mapping[int, Path]) -> list[int]:
    """Return the numbers of those shards whose files are not written yet."""
    return [shard for shard, file in files.items() if not file.is_file()]


def _chunks(numbers: range, size: int) -> list[range]:
    """Cut the numbers of a shard's samples into pieces of a size; an empty shard is one empty piece."""
    return [numbers[first : first + size] for first in range(0, len(numbers), size)] or [numbers]


def _left_out(index: DatasetIndex, shard: int) -> Counter[str]:
    """Count what of a shard is not written anew, by reason, before its images are decoded."""
    summary = index.shards[shard]
    counts = Counter(skip.reason for skip in summary.skipped)
    counts.update({f"files {reason}": count for reason, (count, _) in summary.leftovers.items()})
    if filtered := summary.samples - int(index.counts[shard]):
        counts["left out by the filters"] = filtered
    return counts


def claim(file: Path, plan: dict[str, Any], *, notes: Mapping[str, Any] | None = None) -> None:
    """Write down what a folder is for, or compare it with what was written down.

    Args:
        file: The file in the folder that holds the plan.
        plan: The purpose of the folder, as it can be written in JSON.
        notes: Notes that are written beside a new plan, and are not compared; None: none.

    Raises:
        ValueError: Where the folder was begun with another plan; the message says in what they differ.
    """
    out = file.parent
    out.mkdir(parents=True, exist_ok=True)
    if file.is_file():
        written = json.loads(file.read_text())
        changed = "; ".join(differences({name: written.get(name) for name in plan}, plan))
        if changed:
            raise ValueError(f"{out} was begun with other settings ({changed}); choose another out=, or delete it")
    else:
        write_whole(file, json.dumps({**plan, **(notes or {})}, indent=2))


def typed_names(names: str | list[str]) -> str:
    """Return names of files as they are typed behind an option: no path is taken for a list, or for a quoted text."""
    if isinstance(names, str):
        return names if names[:1] not in ("[", "'", '"') else f"./{names}"
    quoted = (word.partition("=")[2] for word in quote_texts([f"data.val={typed_names(name)}" for name in names]))
    return f"[{','.join(quoted)}]"
