"""The index of one shard: what it records of samples, where it lies, and how large it is."""

import json
import os

import numpy as np
from PIL import Image

from ldm.data.shards import shard_index
from ldm.data.shards.dataset_index import DatasetIndex, index_shards
from ldm.data.shards.names import find_shards, write_shards
from ldm.data.shards.sample_offsets import SampleOffsetsCache
from tests.data.small_shards import encoded, keys, level, numbered, opened, sample, write_tar

PNG = level(7)


def test_indexes_of_a_folder_that_cannot_be_written_go_to_the_cache(tmp_path, monkeypatch):
    pattern = numbered(tmp_path / "data", [3, 2])
    write = shard_index.write_tensors

    def refuse(file, tensors, metadata):
        if "data" in file.parts[-2]:
            raise PermissionError("read-only")
        write(file, tensors, metadata)

    monkeypatch.setattr(shard_index, "write_tensors", refuse)
    first = keys(opened(pattern, tmp_path / "cache"))
    assert not list((tmp_path / "data").glob(".*index*"))
    assert len(list((tmp_path / "cache").glob("*.index"))) == 2
    monkeypatch.setattr("ldm.data.shards.dataset_index.make", None)
    assert keys(opened(pattern, tmp_path / "cache")) == first


def test_an_index_is_made_once_and_noticed_when_stale(tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr("ldm.data.shards.dataset_index.make", lambda *a: made.append(a[0]) or shard_index.make(*a))
    pattern = numbered(tmp_path, [3, 2])
    assert len(opened(pattern, tmp_path / "cache")) == 5
    assert len(made) == 2
    index, shard = (tmp_path / f"{dot}train-000-000000.tar{end}" for dot, end in ((".", ".index"), ("", "")))
    assert index.stat().st_mode == shard.stat().st_mode, "others may read it, too"
    assert len(opened(pattern, tmp_path / "cache")) == 5
    assert len(made) == 2, "what is there is not made again"
    write_tar(tmp_path / "train-001-000000.tar", [("new.png", PNG), ("new.txt", b"x")])
    assert keys(opened(pattern, tmp_path / "cache"))[3:] == ["new"]
    assert len(made) == 3, "but what has changed is"
    (tmp_path / ".train-000-000000.tar.index").write_bytes(b"half an ind")
    assert len(opened(pattern, tmp_path / "cache")) == 4
    assert len(made) == 4


def test_sizes_are_those_of_the_upright_picture(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(Image.new("RGB", (40, 10)), "jpg", exif=exif, comment=b"x" * 60_000, icc_profile=b"y" * 100_000)
    write_tar(tmp_path / "a.tar", [("a.jpg", data), ("a.txt", b"x")])
    index = opened(str(tmp_path / "a.tar"), tmp_path)
    assert (index.column("width"), index.column("height")) == (10, 40)


def test_odd_records_hold_no_numbers(tmp_path):
    records = [
        b"{",
        b"[1, 2]",
        b"\xff\xfe",
        b'{"a": NaN, "b": 1e999, "c": "5", "d": 3}',
        json.dumps({"d": 10**400}).encode(),
    ]
    write_shards(
        [sample(f"{i}", json=record, txt=b"x") for i, record in enumerate(records)], tmp_path, "r", samples_per_shard=9
    )
    index = opened(f"{tmp_path}/r*.tar", tmp_path)
    assert index.shards[0].numbers == ["d"]
    assert np.array_equal(index.column("d"), [np.nan] * 3 + [3.0, np.nan], equal_nan=True)


def test_places_are_held_up_to_a_limit(tmp_path):
    index = opened(numbered(tmp_path, [4] * 6), tmp_path)
    expected = keys(index)
    one = next(iter(index._places.held.values())).nbytes
    index._places = SampleOffsetsCache(limit=2 * one)
    assert keys(index) == expected
    assert len(index._places.held) == 2
    assert index._places.size == sum(places.nbytes for places in index._places.held.values())


def test_index_is_small(tmp_path):
    """An index costs less than a hundredth of its shard for photographs of usual size."""
    data = encoded(Image.effect_noise((256, 256), 60).convert("RGB"), "jpg")
    write_shards(
        ({"__key__": f"{i:09d}", "jpg": data, "txt": b"x", "json": b'{"a": 1, "b": 2}'} for i in range(200)),
        tmp_path, "p", samples_per_shard=200,
    )  # fmt: skip
    (summary,) = index_shards(find_shards(f"{tmp_path}/p*.tar", tmp_path), tmp_path)
    assert len(DatasetIndex([summary])) == 200
    assert os.path.getsize(summary.file) < os.path.getsize(summary.path) / 100
