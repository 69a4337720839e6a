"""Copying remote shards to this machine, once, with the openers of webdataset."""

from __future__ import annotations

import hashlib
import re
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import webdataset
from filelock import FileLock
from tqdm.auto import tqdm

CHUNK = 2**20
"""The number of bytes that are copied at once."""
DOWNLOADS = 8
"""The number of shards that are copied at the same time."""


def is_remote(name: str) -> bool:
    """Return whether a name is a URL or a command, not a path."""
    return name.startswith("pipe:") or re.match(r"[a-z][a-z0-9+.-]*://", name) is not None


def fetch(names: Sequence[str], folder: Path) -> dict[str, str]:
    """Copy remote shards into a folder, if they are not there yet.

    Several processes may do so at the same time; a copy appears whole or not at all.

    Args:
        names: URLs (`https://...`) or commands (`pipe:...`).
        folder: The folder of the copies; it is made if it does not exist.

    Returns:
        Name of a shard -> path of its copy.

    Raises:
        OSError: If a shard cannot be copied; the error names it.
    """
    if not names:
        return {}
    folder.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(DOWNLOADS) as pool:
        copies = pool.map(lambda name: _copy(name, folder), names)
        bar = tqdm(copies, desc="copying shards", total=len(names), unit="shard")
        return {name: str(path) for name, path in zip(names, bar)}


def _copy(name: str, folder: Path) -> Path:
    """Copy one remote shard, if it is not there yet, and return the path of the copy."""
    tail = re.sub(r"[^\w.-]", "_", name.rstrip("/").rpartition("/")[2])[-40:].removesuffix(".tar")
    path = folder / f"{hashlib.sha256(name.encode()).hexdigest()[:16]}-{tail}.tar"
    with FileLock(path.with_suffix(".lock")):
        if not path.is_file():
            draft = path.with_suffix(".part")
            try:
                with webdataset.gopen(name) as source, draft.open("wb") as copy:
                    while chunk := source.read(CHUNK):
                        copy.write(chunk)
                if not draft.stat().st_size:
                    raise OSError("it is empty")
            except (OSError, ValueError, subprocess.SubprocessError) as error:
                draft.unlink(missing_ok=True)
                code = re.search(r"exit (\d+)", str(error))
                reason = f"what reads it ended with exit code {code[1]}" if code else str(error)
                raise OSError(
                    f"cannot copy the shard {name!r}: {reason}; check that it can be read from here, then type the same "
                    "command again: shards that were copied already are kept"
                ) from error
            draft.replace(path)
    return path
