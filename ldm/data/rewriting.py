"""Shards that are written anew, one for one, from those of a data set: `ldm.encode` and `ldm.data.neighbors` share this."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset

from ldm.batch import Batch
from ldm.config import differences
from ldm.data.dataset import ShardDataset
from ldm.data.shards.dataset_index import DatasetIndex
from ldm.files.whole import write_whole
from ldm.options.arguments import quote_texts


class ExactBatches(Dataset[tuple[Batch, list[dict[str, bytes]]]]):
    """Batches of given samples, without substitutes for broken ones, each with its samples' other files.

    Args:
        dataset: The samples.
        chunks: For each batch the numbers of its samples.
    """

    def __init__(self, dataset: ShardDataset, chunks: Sequence[Sequence[int]]) -> None:
        self.dataset = dataset
        self.chunks = chunks

    def __len__(self) -> int:
        return len(self.chunks)

    def __getitem__(self, number: int) -> tuple[Batch, list[dict[str, bytes]]]:
        return self.dataset.exactly(self.chunks[number])


def chunks_of(index: DatasetIndex, shards: Sequence[int], size: int) -> list[tuple[int, range]]:
    """Cut the samples of some shards into pieces.

    Args:
        index: The samples.
        shards: Numbers of the shards.
        size: The largest number of samples in a piece.

    Returns:
        The number of a shard, and numbers of samples in it, which begin and end with it; an empty shard is one empty piece.
    """
    ends = index.counts.cumsum().tolist()
    return [
        (shard, chunk) for shard in shards for chunk in _chunks(ends[shard] - index.counts[shard], ends[shard], size)
    ]


def _chunks(start: int, end: int, size: int) -> list[range]:
    """Cut a range into pieces of a size; an empty one is one piece."""
    return [range(first, min(first + size, end)) for first in range(start, end, size)] or [range(start, end)]


def left_out(index: DatasetIndex, shard: int) -> Counter[str]:
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
        plan: What the folder is for, as it can be written in JSON.
        notes: What is written down beside a new plan, and is not compared; None: nothing.

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
