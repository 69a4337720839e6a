"""Finding validation shards that are also trained on.

Shards are the same if they are the same file, by whatever path, or if their contents are the same.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence

from ldm.data.shards.remote import is_remote

HEAD_BYTES = 2**20
"""The number of bytes at the beginning of two files of the same size that are compared."""


def shared_message(train: Sequence[str], val: Sequence[str], digests: Mapping[str, Sequence[str]]) -> str | None:
    """Return a warning about validation shards that are also trained on, or None; see `shared_shards` for the arguments."""
    shared = shared_shards(train, val, digests)
    if not shared:
        return None
    named = ", ".join(name if name == other else f"{name} (as {other})" for name, other in shared.items())
    return (
        f"{len(shared)} of {len(val)} validation shards are trained on, too: {named}; scores on them tell nothing about "
        "other images: give others as data.val, unless this is wanted"
    )


def shared_shards(train: Sequence[str], val: Sequence[str], digests: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Find the validation shards that are training shards, too.

    Args:
        train: Names of the training shards.
        val: Names of the validation shards.
        digests: Name of a shard -> hashes of its contents, for shards whose contents are known: one of its own, and for
            cached latents one of each shard that they were made of. Other files of the same size are compared by their first
            bytes.

    Returns:
        Name of a validation shard -> name of the same training shard.
    """
    known: dict[object, str] = {}
    for name in train:
        for mark in _marks(name, digests):
            known.setdefault(mark, name)
    found = {}
    for name in val:
        same = next((known[mark] for mark in _marks(name, digests) if mark in known), None)
        size = _size(name)
        if same is None and size and name not in digests:
            alike = [other for other in train if _size(other) == size]
            head = _head(name) if alike else b""
            same = next((other for other in alike if _head(other) == head), None)
        if same is not None:
            found[name] = same
    return found


def _marks(name: str, digests: Mapping[str, Sequence[str]]) -> list[object]:
    """Return everything that identifies a shard: its name, its file on disk, and the hashes of its contents."""
    marks: list[object] = [name]
    if not is_remote(name):
        status = os.stat(name)
        marks.append((status.st_dev, status.st_ino))
    return [*marks, *(("digest", digest) for digest in digests.get(name, ()))]


def _size(name: str) -> int:
    """Return the size of a file in bytes; 0 for a remote shard."""
    return 0 if is_remote(name) else os.path.getsize(name)


def _head(name: str) -> bytes:
    """Return a hash of the first bytes of a file."""
    with open(name, "rb") as file:
        return hashlib.sha256(file.read(HEAD_BYTES)).digest()
