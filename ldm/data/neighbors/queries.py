"""Files of the neighbours of single images and prompts, to sample with."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ldm.data.neighbors.database import NeighborDatabase, npy_bytes
from ldm.files.output_folder import OutputFolder
from ldm.files.whole import write_whole, written_whole

RECORD = "queries.jsonl"
"""The file that says which image or prompt each .npy is of, and which images are its neighbours."""


class Query(NamedTuple):
    """An image or a prompt whose neighbours are looked for.

    Attributes:
        kind: "image" or "prompt".
        source: The path of the image, or the prompt.
        file: The name of the file of its neighbours.
    """

    kind: str
    source: str
    file: str


def image_queries(files: Sequence[str]) -> list[Query]:
    """Return a query for each image file, named after it: `a.npy` for `a.png`, `a.png.npy` where there is an `a.jpg`, too."""
    stems = Counter(Path(file).stem for file in files)
    return [
        Query("image", file, f"{Path(file).stem if stems[Path(file).stem] == 1 else Path(file).name}.npy")
        for file in files
    ]


def prompt_queries(prompts: Sequence[str]) -> list[Query]:
    """Return a query for each prompt, named by its number: `000000.npy`."""
    return [Query("prompt", prompt, f"{number:06d}.npy") for number, prompt in enumerate(prompts)]


def answers_folder(out: Path) -> OutputFolder:
    """Return the folder for the neighbours of queries, in which nothing else may lie."""
    own = {RECORD, *_files_in(out)} if (out / RECORD).is_file() else set()
    return OutputFolder(out, option="out", is_own=own.__contains__)


def write_answers(
    out: Path,
    queries: Sequence[Query],
    embeddings: NDArray[np.float32],
    database: NeighborDatabase,
    *,
    k: int,
    dtype: str,
    include_query: bool,
) -> None:
    """Write a .npy of the neighbours of each query, and a record of all.

    Args:
        out: The folder; what an earlier command wrote there is replaced.
        queries: The queries.
        embeddings: Their embeddings `(Q, D)`, of length 1.
        database: The database of the possible neighbours.
        k: The number of neighbours, K.
        dtype: The type of what is written, "float32" or "float16".
        include_query: Put the query's own embedding before those of its neighbours: `(K + 1, D)` instead of `(K, D)`.

    Raises:
        ValueError: Where the folder holds anything else, or the database holds too few images.
    """
    found = database.nearest(embeddings, k)
    records = [
        {
            "file": query.file,
            query.kind: query.source,
            "neighbors": [
                {"shard": shard, "key": key, "similarity": round(float(similarity), 4)}
                for (shard, key), similarity in zip(database.names_of(rows.tolist()), similarities, strict=True)
            ],
        }
        for query, rows, similarities in zip(queries, found.rows, found.similarities, strict=True)
    ]
    folder = answers_folder(out)
    with folder.lock():
        for name in _files_in(out) - {query.file for query in queries}:
            (out / name).unlink(missing_ok=True)
        write_whole(out / RECORD, "".join(f"{json.dumps(record)}\n" for record in records))
        for query, own, neighbors in zip(queries, embeddings, found.embeddings, strict=True):
            rows = np.concatenate([own[None], neighbors]) if include_query else neighbors
            with written_whole(out / query.file) as draft:
                draft.write_bytes(npy_bytes(rows.astype(dtype)))


def _files_in(out: Path) -> set[str]:
    """Return the names of the files that the record in a folder names; none where there is no record."""
    try:
        lines = [json.loads(line) for line in (out / RECORD).read_text().splitlines()]
    except (OSError, ValueError):
        return set()
    names: Iterable[Any] = (line.get("file") for line in lines if isinstance(line, dict))
    return {name for name in names if isinstance(name, str) and name.endswith(".npy") and "/" not in name}
