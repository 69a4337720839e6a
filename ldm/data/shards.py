"""Tar shards of captioned images: writing, finding and indexing them. Alone knows their layout.

A sample is a run of files that share a key, the name up to the first dot: `000017.png`, `000017.txt`, `000017.json`.
"""

from __future__ import annotations

import hashlib
import json
import tarfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from glob import glob
from pathlib import Path
from typing import NamedTuple

import webdataset
from tqdm.auto import tqdm
from webdataset.shardlists import expand_urls
from webdataset.tariterators import base_plus_ext

IMAGE_ENDINGS = ("jpg", "jpeg", "png", "webp")


class Extent(NamedTuple):
    """Where a file's bytes lie inside its shard."""

    offset: int
    size: int


@dataclass(frozen=True)
class Sample:
    """One captioned image: its key, its shard, and where its files lie in it, by ending."""

    key: str
    shard: str
    files: dict[str, Extent] = field(default_factory=dict)

    @property
    def image(self) -> Extent:
        """Where the image lies."""
        return next(self.files[ending] for ending in IMAGE_ENDINGS if ending in self.files)


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


def find_shards(pattern: str | Sequence[str]) -> list[str]:
    """Paths of the shards that a brace pattern, a glob, a path, or a list of them names, in order.

    Raises FileNotFoundError where one names nothing.
    """
    patterns = [pattern] if isinstance(pattern, str) else list(pattern)
    found: list[str] = []
    for part in patterns:
        paths = [path for name in expand_urls(part) for path in (sorted(glob(name)) or [name])]
        missing = [path for path in paths if not Path(path).is_file()]
        if missing:
            raise FileNotFoundError(
                f"no shard at {missing[0]!r} ({len(missing)} of {len(paths)} files of {part!r} are missing); "
                "give a brace pattern like '/data/{00000..00099}.tar', a glob, or a list of both"
            )
        found += paths
    return found


def index_shards(shards: Sequence[str]) -> list[Sample]:
    """All samples of some shards, in the order in which they lie there, without reading images.

    Raises ValueError where a sample has no image or no caption file, or a shard is not a tar file.
    """
    samples: list[Sample] = []
    for shard in tqdm(shards, desc="indexing shards", unit="shard", disable=len(shards) < 10):
        samples += _index(shard)
    if not samples:
        raise ValueError(f"no samples in {len(shards)} shards ({', '.join(shards[:3])}); give shards that hold images")
    return samples


def fingerprint(samples: Sequence[Sample]) -> str:
    """A short name for these samples, from shard names, keys and sizes."""
    digest = hashlib.sha256()
    for sample in samples:
        sizes = sorted((ending, extent.size) for ending, extent in sample.files.items())
        digest.update(json.dumps([Path(sample.shard).name, sample.key, sizes]).encode())
    return digest.hexdigest()[:16]


def _index(shard: str) -> list[Sample]:
    by_key: dict[str, Sample] = {}
    try:
        with tarfile.open(shard) as archive:
            for member in archive:
                key, ending = base_plus_ext(member.name)
                if member.isfile() and key:
                    sample = by_key.setdefault(key, Sample(key, shard))
                    sample.files[ending.lower()] = Extent(member.offset_data, member.size)
    except tarfile.TarError as error:
        raise ValueError(f"{shard} is not a readable tar file: {error}; write it again or leave it out") from error
    for sample in by_key.values():
        _check(sample)
    return list(by_key.values())


def _check(sample: Sample) -> None:
    where = f"sample {sample.key!r} in {sample.shard}"
    if not any(ending in sample.files for ending in IMAGE_ENDINGS):
        raise ValueError(f"{where} has no image; got {sorted(sample.files)}, expected one of {list(IMAGE_ENDINGS)}")
    if not {"txt", "json"} & sample.files.keys():
        raise ValueError(
            f"{where} has no caption; got {sorted(sample.files)}, add a .txt or .json file or leave it out"
        )
