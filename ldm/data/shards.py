"""Tar shards of captioned images: writing, finding, and where each sample lies in one. Alone knows their layout.

A sample is the files of a shard that share a key, the name up to the first dot: `000017.png`, `000017.txt`,
`000017.json`; one of cached latents has `000017.safetensors` instead of an image.
"""

from __future__ import annotations

import json
import os
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from glob import glob
from pathlib import Path
from typing import Any, NamedTuple

import webdataset
from webdataset.shardlists import expand_urls
from webdataset.tariterators import base_plus_ext

from ldm.batch import Skip
from ldm.data.decode import decode_text
from ldm.data.remote import fetch, is_remote

LATENT_ENDING = "safetensors"
IMAGE_ENDINGS = ("jpg", "jpeg", "png", "webp")

COMPRESSED = {b"\x1f\x8b": "gzip", b"BZ": "bzip2", b"\xfd7": "xz", b"(\xb5": "zstd"}


class Extent(NamedTuple):
    """Where a file's bytes lie inside its shard."""

    offset: int
    size: int


ABSENT = Extent(0, -1)


class Sample(NamedTuple):
    """One captioned image: its key, its shard, and where its image (or latent), .txt and .json lie in it."""

    key: str
    shard: str
    image: Extent
    text: Extent = ABSENT
    record: Extent = ABSENT


class Contents(NamedTuple):
    """What is in a shard: samples with an image and a caption file, and what was left out."""

    samples: list[Sample]
    skipped: list[Skip]


def write_shards(samples: Iterable[dict], folder: Path, split: str, *, samples_per_shard: int) -> None:
    """Write `split-000000.tar`, ... into a folder; the same samples give the same bytes.

    samples  each `__key__` and, by ending, the bytes of its files
    """
    folder.mkdir(parents=True, exist_ok=True)
    pattern = str(folder / f"{split}-%06d.tar")
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

    Raises FileNotFoundError where a path names nothing.
    """
    found: list[str] = []
    for part in [pattern] if isinstance(pattern, str) else pattern:
        if is_remote(part):
            found += expand_urls(part)
            continue
        paths = [path for name in expand_urls(part) for path in (sorted(glob(name)) or [name])]
        missing = [path for path in paths if not Path(path).is_file()]
        if missing:
            raise FileNotFoundError(
                f"no shard at {missing[0]!r} ({len(missing)} of {len(paths)} files of {part!r} are missing); "
                "give a brace pattern like '/data/{00000..00099}.tar', a glob, or a list of both"
            )
        found += paths
    return found


def find_shards(pattern: str | Sequence[str], cache: str | Path) -> list[str]:
    """Paths of the shards that a pattern names; see name_shards.

    Remote ones are copied into the folder `cache` first; those that are there already are not.
    """
    names = name_shards(pattern)
    copies = fetch([name for name in names if is_remote(name)], Path(cache))
    return [copies.get(name, name) for name in names]


def list_shard(shard: str) -> Contents:
    """All samples of a shard in the order in which they lie there, from its tar headers alone."""
    groups: dict[str, dict[str, Extent]] = {}
    skipped: list[Skip] = []
    for name, extent, damage in _members(shard):
        key, ending = base_plus_ext(name)
        if damage:
            skipped.append(Skip(shard, "", damage))
        elif key:
            files, ending = groups.setdefault(key, {}), ending.lower()
            if ending not in files:
                files[ending] = extent
            elif ending in (*IMAGE_ENDINGS, LATENT_ENDING):
                skipped.append(Skip(shard, key, "duplicate key"))
    samples = []
    for key, files in _split_dotted(groups):
        image = next((files[ending] for ending in (LATENT_ENDING, *IMAGE_ENDINGS) if ending in files), None)
        text, record = files.get("txt", ABSENT), files.get("json", ABSENT)
        if image is None:
            skipped.append(Skip(shard, key, "no image"))
        elif max(text.size, record.size) <= 0:
            skipped.append(Skip(shard, key, "no caption"))
        else:
            samples.append(Sample(key, shard, image, text, record))
    return Contents(samples, skipped)


def _members(shard: str) -> Iterator[tuple[str, Extent, str]]:
    """Name, place and damage ("" for none) of each regular file; damage to a whole shard has the name ""."""
    size = os.path.getsize(shard)
    if not size:
        yield "", ABSENT, "empty shard file"
        return
    end = 0
    try:
        with tarfile.open(shard, "r:") as archive:
            for member in archive:
                extent = Extent(member.offset_data, member.size)
                if extent.size < 0 or extent.offset <= end:
                    break  # a header that leads back would be read for ever
                end = extent.offset + -(-extent.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
                if member.isreg() and not member.issparse():
                    yield member.name, extent, "shard cut off" if sum(extent) > size else ""
    except (tarfile.TarError, OSError, ValueError, EOFError, OverflowError, RecursionError, MemoryError):
        if not end:
            yield "", ABSENT, f"not a tar file{_compression(shard)}"
            return
    if end <= size and not _is_end(shard, end):
        yield "", ABSENT, "shard damaged or without an end"


def _is_end(shard: str, offset: int) -> bool:
    """Whether there is tar's end mark, a block of zeros, at a place."""
    with open(shard, "rb") as file:
        file.seek(offset)
        block = file.read(tarfile.BLOCKSIZE)
    return len(block) == tarfile.BLOCKSIZE and not any(block)


def _compression(shard: str) -> str:
    with open(shard, "rb") as file:
        name = COMPRESSED.get(file.read(2))
    return f" but {name}; unpack it" if name else ""


def _split_dotted(groups: dict[str, dict[str, Extent]]) -> Iterator[tuple[str, dict[str, Extent]]]:
    """Groups by key. `a.v1.jpg`, `a.v1.txt`, `a.v2.jpg`, ... without any `a.jpg` are samples `a.v1`, `a.v2`, ..."""
    images = {LATENT_ENDING, *IMAGE_ENDINGS}
    for key, files in groups.items():
        dotted: dict[str, dict[str, Extent]] = {}
        if not images & files.keys():
            for ending, extent in files.items():
                inner, dot, last = ending.rpartition(".")
                if dot:
                    dotted.setdefault(f"{key}.{inner}", {})[last] = extent
        if any(images & inner.keys() for inner in dotted.values()):
            yield from dotted.items()
        else:
            yield key, files


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
