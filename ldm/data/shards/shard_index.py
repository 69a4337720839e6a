"""The index of one shard on disk: number, byte ranges, image sizes and numbers of its samples.

Making an index reads the headers of all images and all .json files of the shard, once. Later runs read the index alone.
Images alone have the last rows of an index, so that the rows of all other samples do not depend on them.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from ldm.batch import SkippedSample
from ldm.data.decode import Broken, read_header
from ldm.data.foreign_moments import is_array, is_undeclared, undeclared
from ldm.data.latents import SOURCE_FACT, read_encoding
from ldm.data.shards.grouping import Leftover, Listing, Sample, list_shard
from ldm.data.shards.members import ABSENT, ByteRange
from ldm.data.shards.names import numbers_of
from ldm.files.tensors import write_tensors

log = logging.getLogger(__name__)

VERSION = "8"
HEADER_BYTES = 2**16
"""The number of bytes at the beginning of an image that usually hold its size; if they do not, all bytes are read."""
FIRST_BYTES = 8
"""The number of bytes at the beginning of a file that tell an array from an image."""


class ShardSummary(NamedTuple):
    """All that is known of a shard without reading its samples' places, with or without its images alone.

    Attributes:
        path: Path of the shard.
        file: Path of its index.
        stamp: Size and time of the shard when it was indexed.
        samples: Number of its samples; they are the first rows of the index.
        numbers: Names of the numbers that its .json files hold.
        digest: Hash of all that is known of its samples except their places.
        encoding: The settings with which cached latents were made, and their autoencoder; empty for images.
        sources: Digests of the shards of images that cached latents were made of; empty for images.
        skipped: Samples that were left out, and with the key "" the shard itself.
        leftovers: Files that no sample lacks, but that are not read: reason -> how many, and the name of the first.
        parts: Files beside image, .txt and .json that fields can be read from: ending -> how many, and the name of the first.
    """

    path: str
    file: str
    stamp: str
    samples: int
    numbers: list[str]
    digest: str
    encoding: dict[str, str]
    sources: list[str]
    skipped: list[SkippedSample]
    leftovers: dict[str, tuple[int, str]]
    parts: dict[str, tuple[int, str]]


class _Rows(NamedTuple):
    """The rows of an index while it is made, with one entry per sample.

    Attributes:
        samples: Keys and byte ranges.
        sizes: Width and height of each image in pixels.
        numbers: The numbers in each .json file.
    """

    samples: list[Sample]
    sizes: list[tuple[int, int]]
    numbers: list[dict[str, float]]


class _View(NamedTuple):
    """The beginning of the rows of an index that one form of the rule for samples gives.

    Attributes:
        samples: The number of these rows.
        encoding: The settings with which cached latents were made; empty for images.
        sources: Digests of the shards of images that they were made of.
        skipped: Samples and files that were left out.
    """

    samples: int
    encoding: dict[str, str]
    sources: list[str]
    skipped: list[SkippedSample]


def make(shard: str, cache: Path) -> int:
    """Make the index of a shard, beside it or, if that folder cannot be written, in the folder `cache`.

    Args:
        shard: The path of the shard.
        cache: The folder for indexes that cannot lie beside their shards.

    Returns:
        The number of samples in the shard.
    """
    before = os.stat(shard)
    listing = list_shard(shard)
    rows, views = _look_into(shard, listing)
    parts = _parts_of(listing.paired.samples)
    names = sorted({name for numbers in rows.numbers for name in numbers})
    keys = [sample.key.encode(errors="surrogateescape") for sample in rows.samples]
    files = [[*sample[2:5], *(sample.parts.get(ending, ABSENT) for ending in parts)] for sample in rows.samples]
    extents = np.array(files, np.int64).reshape(-1, 3 + len(parts), 2)
    tensors: dict[str, np.ndarray] = {
        "keys": np.frombuffer(bytearray(b"".join(keys)), np.uint8),
        "key_ends": np.cumsum([len(key) for key in keys], dtype=np.int64),
        "offsets": np.ascontiguousarray(extents[:, :, 0]),
        "sizes": np.ascontiguousarray(extents[:, :, 1]),
        "pixels": np.array(rows.sizes, np.int64).reshape(-1, 2),
        "numbers": np.array([[row.get(name, np.nan) for name in names] for row in rows.numbers], np.float64).reshape(
            len(keys), len(names)
        ),
    }
    facts = {"numbers": names, "parts": parts, "views": [_facts(view, keys, tensors) for view in views]}
    metadata = {"version": VERSION, "shard": stamp_of(before), "facts": json.dumps(facts)}
    _save(tensors, metadata, shard, cache)
    return len(keys)


def _facts(view: _View, keys: Sequence[bytes], tensors: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Return the summary of the first samples of a shard, for its index."""
    known = b"".join(tensors[name][: view.samples].tobytes() for name in ("sizes", "pixels", "numbers"))
    return {
        "samples": view.samples,
        "digest": hashlib.sha256(b"\0".join(keys[: view.samples]) + known).hexdigest()[:16],
        "encoding": view.encoding,
        "sources": view.sources,
        "skipped": [(skip.key, skip.reason) for skip in view.skipped if not isinstance(skip, Leftover)],
        "leftovers": _counted(skip for skip in view.skipped if isinstance(skip, Leftover)),
    }


def _parts_of(samples: Sequence[Sample]) -> dict[str, tuple[int, str]]:
    """Other parts of samples: ending -> how many, and the name of the first."""
    found: dict[str, tuple[int, str]] = {}
    for sample in samples:
        for ending in sample.parts:
            count, first = found.get(ending, (0, f"{sample.key}.{ending}"))
            found[ending] = count + 1, first
    return dict(sorted(found.items()))


def _counted(leftovers: Iterable[SkippedSample]) -> dict[str, tuple[int, str]]:
    """Count leftover files by reason, and keep the name of the first one of each."""
    found: dict[str, tuple[int, str]] = {}
    for leftover in leftovers:
        count, first = found.get(leftover.reason, (0, leftover.key))
        found[leftover.reason] = count + 1, first
    return found


def _save(tensors: dict[str, np.ndarray], metadata: dict[str, str], shard: str, cache: Path) -> None:
    """Write an index beside its shard, or, if that fails, into the cache folder."""
    beside, elsewhere = _files(shard, cache)
    given = {name: torch.from_numpy(array) for name, array in tensors.items()}
    try:
        write_tensors(beside, given, metadata)
    except (OSError, SafetensorError):
        write_tensors(elsewhere, given, metadata)


def _look_into(shard: str, listing: Listing) -> tuple[_Rows, list[_View]]:
    """Read the header of every image and the whole .json file of every sample of a shard.

    Returns:
        The rows, and the view without images alone and that with them.
    """
    rows, views = _Rows([], [], []), []
    encoding: dict[str, str] = {}
    sources: dict[str, None] = {}
    broken: list[SkippedSample] = []
    paired = {sample.key for sample in listing.paired.samples}
    alone = [sample for sample in listing.alone.samples if sample.key not in paired]
    with open(shard, "rb") as file:
        for contents, samples in ((listing.paired, listing.paired.samples), (listing.alone, alone)):
            for sample in samples:
                try:
                    size = _look_at_image(file, sample, encoding, sources, first=not rows.samples)
                except Broken as error:
                    broken.append(SkippedSample(shard, sample.key, error.reason))
                    continue
                rows.samples.append(sample)
                rows.sizes.append(size)
                rows.numbers.append(numbers_of(_read_extent(file, sample.record)) if sample.record.size > 0 else {})
            views.append(_View(len(rows.samples), dict(encoding), list(sources), [*contents.skipped, *broken]))
    return rows, views


def _look_at_image(
    file: BinaryIO, sample: Sample, encoding: dict[str, str], sources: dict[str, None], *, first: bool
) -> tuple[int, int]:
    """Return width and height of a sample's image in pixels; for latents, those of the image that they were made from.

    How latents were made is written into `encoding`, and the digests of the shard of their images into `sources`. Arrays of
    moments say nothing of their images, whose size is given as 0 x 0.

    Raises:
        Broken: If the image is unreadable, its latents were made in another way than the first ones of the shard, or it is an
            array where the first sample (`first`) is an image, or the other way round.
    """
    array = is_array(_read_extent(file, sample.image, FIRST_BYTES))
    if not first and array != is_undeclared(encoding):
        raise Broken(
            "array of moments in a shard of images" if array else "no array of moments, as others of its shard are"
        )
    if array:
        encoding.update(undeclared())
        return 0, 0
    head = _read_extent(file, sample.image, HEADER_BYTES)
    found = read_encoding(head)
    if found is not None:
        size = int(found.pop("width", 0)), int(found.pop("height", 0))
        source = found.pop(SOURCE_FACT, "")
        if encoding and encoding != found:
            raise Broken("encoded otherwise than the first of its shard")
        encoding.update(found)
        sources.update(dict.fromkeys(source.split()))
        return size
    try:
        return tuple(read_header(head))  # type: ignore[return-value]
    except Broken:
        if sample.image.size <= HEADER_BYTES:
            raise
        return tuple(read_header(_read_extent(file, sample.image)))  # type: ignore[return-value]


def _read_extent(file: BinaryIO, extent: ByteRange, limit: int | None = None) -> bytes:
    """Return the bytes of a file in a shard, or the first `limit` of them."""
    file.seek(extent.offset)
    return file.read(extent.size if limit is None else min(extent.size, limit))


def read(shard: str, cache: Path, *, alone: bool = False) -> ShardSummary | None:
    """Return the summary of a shard from its index.

    Args:
        shard: The path of the shard.
        cache: The folder for indexes that cannot lie beside their shards.
        alone: True if images alone are samples.

    Returns:
        The summary; None if there is no index, or if the shard has changed since its index was made.
    """
    stamp = stamp_of(os.stat(shard))
    for file in _files(shard, cache):
        try:
            with safe_open(file, "np") as content:
                metadata = content.metadata() or {}
        except (OSError, SafetensorError):
            continue
        if (metadata.get("version"), metadata.get("shard")) == (VERSION, stamp):
            facts = json.loads(metadata["facts"])
            view = facts["views"][alone]
            return ShardSummary(
                shard,
                str(file),
                stamp,
                samples=view["samples"],
                numbers=facts["numbers"],
                digest=view["digest"],
                encoding=view["encoding"],
                sources=view["sources"],
                skipped=[SkippedSample(shard, *skip) for skip in view["skipped"]],
                leftovers={reason: (count, first) for reason, (count, first) in view["leftovers"].items()},
                parts={ending: (count, first) for ending, (count, first) in facts["parts"].items()},
            )
        if metadata.get("version") == VERSION:
            log.info("%s has changed since it was indexed; indexing it again", shard)
    return None


def stamp_of(status: os.stat_result) -> str:
    """Return size and modification time of a file as a text; if it differs, the file has changed."""
    return f"{status.st_size}/{status.st_mtime_ns}"


def _files(shard: str, cache: Path) -> tuple[Path, Path]:
    """Return the two paths where the index of a shard may lie: beside it, and in the cache folder."""
    path = Path(shard).absolute()
    elsewhere = cache / f"{hashlib.sha256(str(path).encode()).hexdigest()[:16]}-{path.name}.index"
    return path.with_name(f".{path.name}.index"), elsewhere


def column(shard: ShardSummary, name: str) -> np.ndarray:
    """Return one number of every sample of a shard.

    Args:
        shard: The summary of the shard.
        name: A number of the .json files, or of the image: `width`, `height`, `side` (the shorter of both, in pixels)
            or `ratio` (width / height).

    Returns:
        `(N,)` float64; NaN for a sample that does not have the number.
    """
    with safe_open(shard.file, "np") as content:
        if name in ("width", "height", "side", "ratio"):
            width, height = content.get_tensor("pixels")[: shard.samples].astype(np.float64).T
            sizes: dict[str, np.ndarray] = {
                "width": width,
                "height": height,
                "side": np.minimum(width, height),
                "ratio": width / height,
            }
            return sizes[name]
        if name in shard.numbers:
            numbers: np.ndarray = content.get_tensor("numbers")[: shard.samples, shard.numbers.index(name)]
            return numbers
    return np.full(shard.samples, np.nan)
