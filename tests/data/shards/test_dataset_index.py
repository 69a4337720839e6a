"""The index of a data set: samples in order, filters, fingerprints, and several processes that ask at once."""

import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch

from ldm.data.latents import pack_latent
from ldm.data.shards.dataset_index import DatasetIndex, index_shards
from ldm.data.shards.names import write_shards
from tests.data.small_shards import captioned, keys, level, numbered, opened, sample, write_tar

PNG = level(7)


def test_what_is_written_is_found(tmp_path):
    index = opened(numbered(tmp_path, [3, 0, 5]), tmp_path)
    assert keys(index) == [f"{number:06d}" for number in range(8)]
    assert index.counts.tolist() == [3, 0, 5]
    for number in (0, 2, 3, 7):
        found = index[number]
        with open(found.shard, "rb") as file:
            for extent, content in ((found.image, level(number)), (found.text, f"caption {number}".encode())):
                file.seek(extent.offset)
                assert file.read(extent.size) == content
    with pytest.raises(IndexError):
        index[8]


def test_many_shards_are_indexed_by_several_processes(tmp_path):
    index = opened(numbered(tmp_path, [2] * 12), tmp_path)
    assert keys(index) == [f"{number:06d}" for number in range(24)]


@pytest.mark.e2e
def test_several_processes_may_ask_at_once(tmp_path):
    """Each shard is indexed by one of them, and all see the same."""
    pattern = numbered(tmp_path, [50] * 12)
    program = f"""
from ldm.data.shards import dataset_index
from ldm.data.shards.names import find_shards
made, make = [], dataset_index.make
dataset_index.make = lambda *a: made.append(a) or make(*a)
dataset_index.FEW_SHARDS = 100
found = dataset_index.DatasetIndex(dataset_index.index_shards(find_shards({pattern!r}, "."), {str(tmp_path / "cache")!r}))
print(len(made), len(found), found.fingerprint)
"""
    running = [subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) for _ in range(3)]
    made, samples, names = zip(*(process.communicate()[0].split() for process in running))
    assert sum(map(int, made)) == 12
    assert set(samples) == {"600"}
    assert len(set(names)) == 1


def test_filters(tmp_path):
    numbered(tmp_path, [5, 5])
    write_shards([sample("wide", size=(40, 10), txt=b"no json")], tmp_path, "wide", samples_per_shard=5)
    pattern = str(tmp_path / "*.tar")
    assert keys(opened(pattern, tmp_path, ["aesthetic > 0.3", "flag == 1"])) == ["000004", "000006", "000008"]
    assert keys(opened(pattern, tmp_path, ["side>=10"])) == ["wide"]
    assert keys(opened(pattern, tmp_path, ["ratio >= 4e0", "height < 11"])) == ["wide"]
    assert len(opened(pattern, tmp_path, ["number != 3"])) == 10, "samples without the number stay: nan is not 3"
    assert len(opened(pattern, tmp_path, ["number <= 3"])) == 4
    with pytest.raises(
        ValueError, match="asks for beauty, but samples have only aesthetic, flag, height, number, ratio"
    ):
        opened(pattern, tmp_path, ["beauty > 5"])
    with pytest.raises(ValueError, match="not of the form"):
        opened(pattern, tmp_path, ["aesthetic is high"])
    none = r"none of 11 samples pass data.filters: 11 fail .aesthetic > 100. \(1 without the number\); ask for less"
    with pytest.raises(ValueError, match=none):
        opened(pattern, tmp_path, ["aesthetic > 100"])
    first, second = (opened(pattern, tmp_path, [f"aesthetic > {least}"]) for least in (0.1, 0.2))
    assert first.fingerprint != second.fingerprint != opened(pattern, tmp_path).fingerprint
    assert np.array_equal(first.column("number"), np.arange(2, 10))


def test_what_filters_leave_is_said(tmp_path, caplog):
    """How many samples pass, how many fail each condition, and how many of those for lack of the number."""
    pattern = numbered(tmp_path, [5, 5])
    write_shards([sample("bare", txt=b"no json")], tmp_path, "train-bare", samples_per_shard=5)
    filters = ["aesthetic > 0.3", "side >= 8", "number != 9"]
    captioned(tmp_path, train=pattern, val=f"{tmp_path}/train-000*.tar", max_broken=1.0, filters=filters)
    assert caplog.text.count("pass data.filters") == 1, "validation samples are not filtered"
    said = "5 of 11 samples pass data.filters: 5 fail 'aesthetic > 0.3' (1 without the number), 0 fail 'side >= 8'"
    assert f"{said}, 1 fail 'number != 9'" in caplog.text
    assert opened(pattern, tmp_path).filters_message() is None


def test_a_fingerprint_knows_the_numbers_that_filters_ask_for(tmp_path):
    def of(value):
        write_tar(tmp_path / "a.tar", [("a.png", PNG), ("a.txt", b"x"), ("a.json", b'{"aesthetic": %d}' % value)])
        return opened(str(tmp_path / "a.tar"), tmp_path, ["aesthetic > 1"]).fingerprint

    assert of(6) != of(4)


def test_moved_shards_are_the_same_data(tmp_path):
    pattern = numbered(tmp_path / "a", [3, 2])
    before = opened(pattern, tmp_path).fingerprint
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    assert opened(f"{tmp_path}/b/*.tar", tmp_path).fingerprint == before


def pairs(count):
    """Return files of captioned images with numbers in their .json."""
    names = (f"{number:02d}" for number in range(count))
    return [
        [(f"{name}.png", level(int(name))), (f"{name}.txt", b"x"), (f"{name}.json", b'{"n": %d}' % int(name))]
        for name in names
    ]


def known(index):
    """Return all that an index knows of its samples."""
    samples = [index[number] for number in range(len(index))]
    sizes = [[extent.size for extent in sample[2:5]] for sample in samples]
    columns = [index.column(name).tolist() for name in ("n", "side")]
    return index.fingerprint, [sample.key for sample in samples], sizes, columns, index.counts.tolist()


def test_images_alone_change_nothing_where_they_are_left_out(tmp_path):
    """Order, numbers, sizes and fingerprint are those of the captioned samples by themselves."""
    captioned = pairs(12)
    mixed = [files for pair in captioned for files in (pair, [(f"alone {pair[0][0]}", level(1, size=(9, 30)))])]
    for name, parts in (("pure", captioned), ("mixed", mixed), ("mixed too", list(reversed(mixed)))):
        (tmp_path / name).mkdir()
        parts = parts if name != "mixed too" else sorted(parts, key=lambda files: files[0][0])
        write_tar(tmp_path / name / "a.tar", [file for files in parts for file in files])
        write_tar(tmp_path / name / "b.tar", [file for files in pairs(3) for file in files])
    pure, mixed, sorted_too = (
        opened(str(tmp_path / name / "*.tar"), tmp_path) for name in ("pure", "mixed", "mixed too")
    )
    assert known(mixed) == known(sorted_too) == known(pure)
    assert [skip.reason for skip in mixed.skipped] == ["no caption"] * 12
    filters = ["side == 8", "n != 3"]
    assert known(DatasetIndex(mixed.shards, filters, limit=5)) == known(DatasetIndex(pure.shards, filters, limit=5))

    paths = [shard.path for shard in mixed.shards]
    whole = DatasetIndex(index_shards(paths, tmp_path, alone=True))
    assert keys(whole) == [*keys(pure)[:12], *(f"alone {number:02d}" for number in range(12)), *keys(pure)[12:]]
    assert whole.skipped == []
    assert whole.fingerprint != pure.fingerprint
    assert whole.column("side")[11:14].tolist() == [8, 9, 9]
    assert np.isnan(whole.column("n")).sum() == 12
    assert len(DatasetIndex(whole.shards, ["height == 30"])) == 12
    paths = [shard.path for shard in pure.shards]
    assert known(DatasetIndex(index_shards(paths, tmp_path, alone=True))) == known(pure)


def test_a_fingerprint_knows_images_alone(tmp_path):
    def of(size):
        path = write_tar(tmp_path / "a.tar", [("a.png", level(1, size=size)), ("b.png", PNG)])
        return DatasetIndex(index_shards([path], tmp_path, alone=True)).fingerprint

    assert of((8, 8)) != of((16, 8))


def test_images_alone_that_are_broken_are_counted(tmp_path):
    path = write_tar(tmp_path / "a.tar", [("a.png", PNG), ("b.png", PNG[:30]), ("c.seg.png", PNG)])
    index = DatasetIndex(index_shards([path], tmp_path, alone=True))
    assert keys(index) == ["a"]
    assert [skip[1:3] for skip in index.skipped] == [("c.seg", "no image"), ("b", "unreadable image")]
    with pytest.raises(
        ValueError, match="no samples in 1 shards .*: no caption; .*images alone are enough for experiment=autoencoder"
    ):
        opened(path, tmp_path)


def test_latents_alone_say_nothing_of_how_the_others_were_made(tmp_path):
    def latent(size):
        return pack_latent(
            {"moments": torch.zeros(2, 2, 2)}, {"autoencoder": "x", "size": size, "width": "4", "height": "5"}
        )

    path = write_tar(
        tmp_path / "a.tar",
        [
            ("a.safetensors", latent("1")),
            ("b.safetensors", latent("2")),
            ("b.txt", b"x"),
            ("c.safetensors", latent("2")),
        ],
    )
    paired, whole = (DatasetIndex(index_shards([path], tmp_path, alone=alone)) for alone in (False, True))
    assert (keys(paired), keys(whole)) == (["b"], ["b", "c"])
    assert paired.encoding == whole.encoding == {"autoencoder": "x", "size": "2"}
    assert [skip.key for skip in paired.skipped] == ["a", "c"]
    assert [skip[1:3] for skip in whole.skipped] == [("a", "encoded otherwise than the first of its shard")]
    assert whole.column("height").tolist() == [5, 5]
