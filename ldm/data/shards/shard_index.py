"""The index of one shard on disk: number, byte ranges, image sizes and numbers of its samples.

Making an index reads the headers of all images and all .json files of the shard, once. Later runs read the index alone.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from ldm.batch import SkippedSample
from ldm.data.decode import Broken, read_header
from ldm.data.latents import read_encoding
from ldm.data.shards.grouping import Contents, Leftover, Sample, list_shard
from ldm.data.shards.members import ABSENT, ByteRange
from ldm.data.shards.names import numbers_of
from ldm.files.tensors import write_tensors

log = logging.getLogger(__name__)

VERSION = "5"
HEADER_BYTES = 2**16
"""The number of bytes at the beginning of an image that usually hold its size; if they do not, all bytes are read."""


class ShardSummary(NamedTuple):
    """All that is known of a shard without reading its samples' places.

    Attributes:
        path: Of the shard.
        file: Of its index.
        stamp: Size and time of the shard when it was indexed.
        samples: How many it holds.
        numbers: Names of the numbers that its .json files hold.
        digest: Of all that is known of its samples but their places.
        encoding: How cached latents were made, and by which autoencoder; empty for images.
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
    skipped: list[SkippedSample]
    leftovers: dict[str, tuple[int, str]]
    parts: dict[str, tuple[int, str]]


class _Rows(NamedTuple):
    """The contents of an index while it is made, with one entry per sample.

    Attributes:
        samples: Keys and byte ranges.
        sizes: Width and height of each image in pixels.
        numbers: The numbers in each .json file.
        encoding: How cached latents were made; empty for images.
        skipped: Samples and files that were left out.
    """

    samples: list[Sample]
    sizes: list[tuple[int, int]]
    numbers: list[dict[str, float]]
    encoding: dict[str, str]
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
    contents = list_shard(shard)
    rows = _look_into(shard, contents)
    parts = _parts_of(contents.samples)
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
    known = b"".join(tensors[name].tobytes() for name in ("sizes", "pixels", "numbers"))
    digest = hashlib.sha256(b"\0".join(keys) + known).hexdigest()[:16]
    facts = {
        "samples": len(keys),
        "numbers": names,
        "digest": digest,
        "encoding": rows.encoding,
        "skipped": [skip[1:] for skip in rows.skipped if not isinstance(skip, Leftover)],
        "leftovers": _counted(skip for skip in rows.skipped if isinstance(skip, Leftover)),
        "parts": parts,
    }
    metadata = {"version": VERSION, "shard": stamp_of(before), "facts": json.dumps(facts)}
    _save(tensors, metadata, shard, cache)
    return len(keys)


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
    for _, name, reason in leftovers:
        count, first = found.get(reason, (0, name))
        found[reason] = count + 1, first
    return found


def _save(tensors: dict[str, np.ndarray], metadata: dict[str, str], shard: str, cache: Path) -> None:
    """Write an index beside its shard, or, if that fails, into the cache folder."""
    beside, elsewhere = _files(shard, cache)
    given = {name: torch.from_numpy(array) for name, array in tensors.items()}
    try:
        write_tensors(beside, given, metadata)
    except (OSError, SafetensorError):
        write_tensors(elsewhere, given, metadata)


def _look_into(shard: str, contents: Contents) -> _Rows:
    """Read the header of every image and the whole .json file of every sample of a shard."""
    rows = _Rows([], [], [], {}, list(contents.skipped))
    with open(shard, "rb") as file:
        for sample in contents.samples:
            try:
                size = _look_at_image(file, sample, rows.encoding)
            except Broken as broken:
                rows.skipped.append(SkippedSample(shard, sample.key, broken.reason))
                continue
            rows.samples.append(sample)
            rows.sizes.append(size)
            rows.numbers.append(numbers_of(_read_extent(file, sample.record)) if sample.record.size > 0 else {})
    return rows


def _look_at_image(file: BinaryIO, sample: Sample, encoding: dict[str, str]) -> tuple[int, int]:
    """Return width and height of a sample's image in pixels; for latents, those of the image that they were made from.

    How latents were made is written into `encoding`.

    Raises:
        Broken: If the image is unreadable, or its latents were made in another way than the first ones of the shard.
    """
    head = _read_extent(file, sample.image, HEADER_BYTES)
    found = read_encoding(head)
    if found is not None:
        size = int(found.pop("width", 0)), int(found.pop("height", 0))
        if encoding and encoding != found:
            raise Broken("encoded otherwise than the first of its shard")
        encoding.update(found)
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


def read(shard: str, cache: Path) -> ShardSummary | None:
    """Return the summary of a shard from its index.

    Args:
        shard: The path of the shard.
        cache: The folder for indexes that cannot lie beside their shards.

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
            skipped = [SkippedSample(shard, *skip) for skip in facts.pop("skipped")]
            leftovers = {reason: (count, first) for reason, (count, first) in facts.pop("leftovers").items()}
            parts = {ending: (count, first) for ending, (count, first) in facts.pop("parts").items()}
            return ShardSummary(shard, str(file), stamp, skipped=skipped, leftovers=leftovers, parts=parts, **facts)
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


class Places(NamedTuple):
    """The places of the samples of a shard: bytes of all keys, ends of keys, offsets and sizes `(N, files)`.

    The files of a sample are its image, .txt, .json, and the parts that some sample of the shard has.
    """

    keys: np.ndarray
    key_ends: np.ndarray
    offsets: np.ndarray
    sizes: np.ndarray

    @property
    def nbytes(self) -> int:
        """The memory that the arrays take, in bytes."""
        return sum(array.nbytes for array in self)


class SampleOffsetsCache:
    """A cache of the byte ranges of the shards that were asked for last.

    Args:
        limit: The largest size of the cache in bytes; the shard that was asked for last is kept in any case.
    """

    def __init__(self, limit: int = 2**27) -> None:
        self.limit = limit
        self.held: OrderedDict[str, Places] = OrderedDict()
        self.size = 0

    def __call__(self, summary: ShardSummary) -> Places:
        """Return keys and byte ranges of the samples of a shard, from the cache if they are in it."""
        if summary.path not in self.held:
            with safe_open(summary.file, "np") as content:
                found = Places(*(content.get_tensor(name) for name in Places._fields))
            self.size += found.nbytes
            while self.held and self.size > self.limit:
                self.size -= self.held.popitem(last=False)[1].nbytes
            self.held[summary.path] = found
        self.held.move_to_end(summary.path)
        return self.held[summary.path]


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
            width, height = content.get_tensor("pixels").astype(np.float64).T
            sizes: dict[str, np.ndarray] = {
                "width": width,
                "height": height,
                "side": np.minimum(width, height),
                "ratio": width / height,
            }
            return sizes[name]
        if name in shard.numbers:
            numbers: np.ndarray = content.get_tensor("numbers")[:, shard.numbers.index(name)]
            return numbers
    return np.full(shard.samples, np.nan)
