"""Names of tar shards, the writing of shards, and the numbers in a sample's .json file.

A sample is the files of a shard that share a key: `000017.png`, `000017.txt`, `000017.json`. A sample of cached latents
has `000017.safetensors` instead of an image, a sample of foreign moments `000017.npy`. The module `grouping` has the exact
rule.
"""

from __future__ import annotations

import glob
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import webdataset
from webdataset.shardlists import expand_urls

from ldm.data.decode import decode_text
from ldm.data.shards.remote import fetch, is_remote
from ldm.files.whole import written_whole

LATENT_ENDING = "safetensors"
"""File extension of cached latents, without the dot."""
ARRAY_ENDING = "npy"
"""File extension of foreign moments, without the dot."""
IMAGE_ENDINGS = ("jpg", "jpeg", "png", "webp")
"""File extensions of images, without the dot."""
NO_TRAINING = "no training images are named; give data.train='shards/train-*.tar'"
"""The error where training images are opened although the data are only for measuring a model."""

StoredSample = Mapping[str, str | bytes]
"""The key of a sample under `__key__`, and the bytes of each of its files under the file's extension."""


def write_shards(samples: Iterable[StoredSample], folder: Path, split: str, *, samples_per_shard: int) -> None:
    """Write samples into the shards `SPLIT-000000.tar`, `SPLIT-000001.tar`, ... of a folder.

    The same samples give the same bytes.

    Args:
        samples: The samples; see `StoredSample`.
        folder: The folder of the shards; it is made if it does not exist.
        split: The first part of the shards' names, like "train".
        samples_per_shard: The largest number of samples in a shard.
    """
    folder.mkdir(parents=True, exist_ok=True)
    pattern = str(folder).replace("%", "%%") + f"/{split}-%06d.tar"
    files: list[BinaryIO] = []

    def begin(name: str) -> BinaryIO:
        files.append(open(name, "wb"))  # noqa: SIM115  webdataset calls the next function when it has written the shard
        return files[-1]

    def end(name: str) -> None:
        files.pop().close()

    with webdataset.ShardWriter(
        pattern,
        maxcount=samples_per_shard,
        opener=begin,
        post=end,
        verbose=0,
        encoder=False,
        mtime=0,
        user="ldm",
        group="ldm",
    ) as writer:
        for sample in samples:
            writer.write(sample)


def write_shard(path: Path, samples: Iterable[StoredSample]) -> None:
    """Write samples into one shard, which appears whole or not at all.

    The same samples give the same bytes.

    Args:
        path: The file of the shard.
        samples: As for `write_shards`.
    """
    with (
        written_whole(path) as draft,
        draft.open("wb") as file,
        webdataset.TarWriter(file, encoder=False, mtime=0, user="ldm", group="ldm") as writer,
    ):
        for sample in samples:
            writer.write(sample)


def name_shards(pattern: str | Sequence[str]) -> list[str]:
    """Return the names of all shards that a pattern stands for, in order.

    A name that exists is taken literally: braces, brackets, `*` and `?` have a meaning only in that part of a path
    which does not exist as it is written.

    Args:
        pattern: A path, a brace pattern, a glob, a URL (`https://...`), a command (`pipe:...`), or a list of these. In
            URLs and commands, only braces have a meaning.

    Returns:
        Paths, URLs and commands.

    Raises:
        ValueError: If `pattern` is no text and no list of texts, or is empty.
        FileNotFoundError: If a path stands for no file.
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
            folder = missing[0]
            advice = f"give the shards in it, like {folder}/*.tar"
            if next(Path(folder).glob("*.tar"), None) is None:
                advice = (
                    f"no shard is in it; images become shards by python -m ldm.data.pack images={folder} out=shards"
                )
            raise FileNotFoundError(f"{folder!r} is a folder; {advice}")
        if missing:
            raise FileNotFoundError(
                f"no shard at {missing[0]!r} ({len(missing)} of {len(paths)} files of {part!r} are missing); "
                "give a brace pattern like '/data/{00000..00099}.tar', a glob, or a list of both"
            )
        found += paths
    return found


def _expand(pattern: str) -> list[str]:
    """Expand a pattern of local paths; patterns that are joined by `::` follow one another.

    A name that matches no file is returned as it is.
    """
    folder, rest = _literal_folder(pattern)
    rest, several, others = rest.partition("::")
    if several:
        return [*_expand(folder + rest), *_expand(others)]
    try:
        names = expand_urls(rest)
    except (ValueError, AssertionError):  # an unmatched brace, or a variable that is not set: take it literally
        names = [rest]
    paths = []
    for name in names:
        path = os.path.join(folder, name)
        inside = os.path.join(glob.escape(folder), name)
        paths += [path] if os.path.exists(path) else sorted(glob.glob(inside)) or [path]
    return paths


def _literal_folder(pattern: str) -> tuple[str, str]:
    """Split a pattern into the longest folder at its beginning that exists as it is written, and the rest."""
    ends = [place for place, letter in enumerate(pattern) if letter == "/"]
    end = next((end + 1 for end in reversed(ends) if os.path.isdir(pattern[: end + 1])), 0)
    return pattern[:end], pattern[end:]


def find_shards(pattern: str | Sequence[str], cache: str | Path) -> list[str]:
    """Return the paths of all shards that a pattern stands for, and copy the remote ones.

    Args:
        pattern: As for `name_shards`.
        cache: The folder for copies of remote shards.
    """
    return copied(name_shards(pattern), cache)


def copied(names: Sequence[str], cache: str | Path) -> list[str]:
    """Return the paths of shards, and copy the remote ones that have not been copied yet.

    Args:
        names: Paths, URLs and commands.
        cache: The folder for copies of remote shards.

    Returns:
        One path for each name, in the same order.
    """
    copies = fetch([name for name in names if is_remote(name)], Path(cache))
    return [copies.get(name, name) for name in names]


def numbers_of(record: bytes) -> dict[str, float]:
    """Return the numbers in a sample's .json file, by name; `true` is 1 and `false` is 0.

    Args:
        record: The bytes of the file.

    Returns:
        Finite numbers below 1e300 in size; empty if the file holds no JSON object.
    """
    numbers = {name: value for name, value in read_record(record).items() if isinstance(value, (int, float))}
    return {name: float(value) for name, value in numbers.items() if abs(value) < 1e300}  # false for nan, too


def read_record(record: bytes) -> dict[str, Any]:
    """Return the JSON object in a sample's .json file.

    Args:
        record: The bytes of the file.

    Returns:
        The object; empty if the file holds none.
    """
    try:
        content = json.loads(decode_text(record))
    except (ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}
