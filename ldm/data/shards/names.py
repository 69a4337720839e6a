"""Tar shards of captioned images: how they are written and found, and what is in a sample's .json.

A sample is the files of a shard that share a key: `000017.png`, `000017.txt`, `000017.json`; one of cached latents has
`000017.safetensors` instead of an image. `grouping` has the rule.
"""

from __future__ import annotations

import glob
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import webdataset
from webdataset.shardlists import expand_urls

from ldm.data.decode import decode_text
from ldm.data.shards.remote import fetch, is_remote

LATENT_ENDING = "safetensors"
IMAGE_ENDINGS = ("jpg", "jpeg", "png", "webp")


def write_shards(samples: Iterable[dict], folder: Path, split: str, *, samples_per_shard: int) -> None:
    """Write `split-000000.tar`, ... into a folder; the same samples give the same bytes.

    samples  each `__key__` and, by ending, the bytes of its files
    """
    folder.mkdir(parents=True, exist_ok=True)
    pattern = str(folder).replace("%", "%%") + f"/{split}-%06d.tar"
    with webdataset.ShardWriter(
        pattern,
        maxcount=samples_per_shard,
        opener=lambda name: open(name, "wb"),
        verbose=0,
        encoder=False,
        mtime=0,
        user="ldm",
        group="ldm",
    ) as writer:
        for sample in samples:
            writer.write(sample)


def write_shard(path: Path, samples: Iterable[dict]) -> None:
    """Write one shard, which appears whole or not at all; the same samples give the same bytes."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with (
            draft.open("wb") as file,
            webdataset.TarWriter(file, encoder=False, mtime=0, user="ldm", group="ldm") as writer,
        ):
            for sample in samples:
                writer.write(sample)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def name_shards(pattern: str | Sequence[str]) -> list[str]:
    """What a brace pattern, a glob, a path, a URL (`https://...`), a command (`pipe:...`), or a list of them names, in order.

    What is there by its very name is taken by it: braces, brackets, `*` and `?` are a pattern's only in that part of a path
    which does not exist as it stands. Raises FileNotFoundError where a path names nothing.
    """
    found: list[str] = []
    parts = [pattern] if isinstance(pattern, str) else list(pattern or [])
    if not parts or not all(isinstance(part, str) and part for part in parts):
        raise ValueError(f"shards are named by a path, a pattern, a URL, a command, or a list of them; got {pattern!r}")
    for part in parts:
        if is_remote(part):
            found += expand_urls(part)
            continue
        paths = [part] if Path(part).exists() else _expand(part)
        missing = [path for path in paths if not Path(path).is_file()]
        if missing and Path(missing[0]).is_dir():
            raise FileNotFoundError(f"{missing[0]!r} is a folder; give the shards in it, like {missing[0]}/*.tar")
        if missing:
            raise FileNotFoundError(
                f"no shard at {missing[0]!r} ({len(missing)} of {len(paths)} files of {part!r} are missing); "
                "give a brace pattern like '/data/{00000..00099}.tar', a glob, or a list of both"
            )
        found += paths
    return found


def _expand(pattern: str) -> list[str]:
    """Paths that a pattern names; those of which nothing is there as they are."""
    folder, rest = _literal_folder(pattern)
    rest, several, others = rest.partition("::")
    if several:
        return [*_expand(folder + rest), *_expand(others)]
    try:
        names = expand_urls(rest)
    except (ValueError, AssertionError):  # braces of which one is missing, a variable that is not set: a mere name
        names = [rest]
    paths = []
    for name in names:
        path = os.path.join(folder, name)
        inside = os.path.join(glob.escape(folder), name)
        paths += [path] if os.path.exists(path) else sorted(glob.glob(inside)) or [path]
    return paths


def _literal_folder(pattern: str) -> tuple[str, str]:
    """The longest folder at the beginning of a pattern that is there as it stands, and the rest."""
    ends = [place for place, letter in enumerate(pattern) if letter == "/"]
    end = next((end + 1 for end in reversed(ends) if os.path.isdir(pattern[: end + 1])), 0)
    return pattern[:end], pattern[end:]


def find_shards(pattern: str | Sequence[str], cache: str | Path) -> list[str]:
    """Paths of the shards that a pattern names; see name_shards and copied."""
    return copied(name_shards(pattern), cache)


def copied(names: Sequence[str], cache: str | Path) -> list[str]:
    """Paths of shards by their names. Remote ones are copied into the folder `cache`, unless they are there already."""
    copies = fetch([name for name in names if is_remote(name)], Path(cache))
    return [copies.get(name, name) for name in names]


def numbers_of(record: bytes) -> dict[str, float]:
    """The numbers (and truth values) in a sample's .json, by name; none where it is no json object."""
    numbers = {name: value for name, value in read_record(record).items() if isinstance(value, (int, float))}
    return {name: float(value) for name, value in numbers.items() if abs(value) < 1e300}  # which nan is not


def read_record(record: bytes) -> dict[str, Any]:
    """A sample's .json; empty where it is no json object."""
    try:
        content = json.loads(decode_text(record))
    except (ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}
