"""Shards and their indexes: whatever is in a tar gives the right samples or is left out under its reason."""

import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ldm.data.bad_samples import Health
from ldm.data.shards import shard_index
from ldm.data.shards.dataset_index import Index, index_shards
from ldm.data.shards.grouping import list_shard
from ldm.data.shards.names import find_shards, name_shards, write_shard, write_shards
from tests.data.shards import captioned, encoded, level, numbered, opened, sample, write_tar
from tests.data.test_decode import bomb

PNG = level(7)


def reasons(index):
    return sorted(skip.reason for skip in index.skipped)


def keys(index):
    return [index[number].key for number in range(len(index))]


def test_patterns(tmp_path):
    write_shards([sample(f"{i}", txt=b"x") for i in range(6)], tmp_path, "s", samples_per_shard=2)
    find = lambda pattern: find_shards(pattern, tmp_path)  # noqa: E731
    braces = find(str(tmp_path / "s-{000000..000002}.tar"))
    assert len(braces) == 3
    assert braces == find(str(tmp_path / "s-*.tar"))
    assert braces == find([str(tmp_path / "s-000000.tar"), str(tmp_path / "s-00000[12].tar")])
    with pytest.raises(FileNotFoundError, match=r"s-000003.tar.*1 of 4 files"):
        find(str(tmp_path / "s-{000000..000003}.tar"))


@pytest.mark.parametrize(
    "folder", ["[2023]", "{a}", "{a,b}", "{a", "*", "what?", "50%d", "a::b", "${WDS_NONE}", "a'b\"c\\\\d"]
)
def test_folders_are_taken_by_their_very_names(tmp_path, monkeypatch, folder):
    numbered(tmp_path / folder, [1, 1])
    names = sorted(str(path) for path in (tmp_path / folder).iterdir())
    assert len(names) == 2
    patterns = ("train-*.tar", "train-00[01]-000000.tar", "train-{000..001}-000000.tar")
    for pattern in patterns:
        assert name_shards(f"{tmp_path}/{folder}/{pattern}") == names
    assert name_shards(names) == names
    monkeypatch.chdir(tmp_path)
    assert name_shards(f"./{folder}/{patterns[0]}") == [f"./{folder}/{Path(name).name}" for name in names]
    with pytest.raises(FileNotFoundError, match="is a folder; give the shards in it"):
        name_shards(str(tmp_path / folder))


@pytest.mark.parametrize("pattern", [None, "", [], ["a.tar", 5], [None]])
def test_what_names_no_shards_is_refused(tmp_path, pattern):
    for split in ("train", "val"):
        with pytest.raises(ValueError, match="shards are named by a path"):
            captioned(tmp_path, **{"train": numbered(tmp_path, [1]), "val": numbered(tmp_path, [1]), split: pattern})


def test_patterns_may_have_patterns_in_their_folders(tmp_path):
    for folder in ("1", "2", "[1]"):
        numbered(tmp_path / folder, [1])
    shards = [f"{tmp_path}/{folder}/train-000-000000.tar" for folder in "12"]
    assert name_shards(f"{tmp_path}/[12]/*.tar") == shards
    assert name_shards(f"{tmp_path}/{{1,2}}/train*") == shards
    assert name_shards("::".join(shards)) == shards
    assert name_shards(f"{tmp_path}/[1]/*.tar") == [f"{tmp_path}/[1]/train-000-000000.tar"], "it is there by this name"
    (tmp_path / "{x}.tar").write_bytes(b"")
    assert name_shards(f"{tmp_path}/{{x}}.tar") == [f"{tmp_path}/{{x}}.tar"]


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


def test_a_shard_is_written_whole_or_not_at_all(tmp_path):
    def failing():
        yield sample("a", txt=b"x")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        write_shard(tmp_path / "a.tar", failing())
    assert list(tmp_path.iterdir()) == []


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


def test_many_shards_are_indexed_by_several_processes(tmp_path):
    index = opened(numbered(tmp_path, [2] * 12), tmp_path)
    assert keys(index) == [f"{number:06d}" for number in range(24)]


def test_several_processes_may_ask_at_once(tmp_path):
    """Each shard is indexed by one of them, and all see the same."""
    pattern = numbered(tmp_path, [50] * 12)
    program = f"""
from ldm.data.shards import dataset_index as index, shard_index
made, make = [], index.make
index.make = lambda *a: made.append(a) or make(*a)
index.FEW_SHARDS = 100
from ldm.data.shards.names import find_shards
found = index.Index(index.index_shards(find_shards({pattern!r}, "."), {str(tmp_path / "cache")!r}))
print(len(made), len(found), found.fingerprint)
"""
    running = [subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) for _ in range(3)]
    made, samples, names = zip(*(process.communicate()[0].split() for process in running))
    assert sum(map(int, made)) == 12
    assert set(samples) == {"600"}
    assert len(set(names)) == 1


def test_hostile_tars(tmp_path):
    """Every kind of damage that issue trackers tell of, in one shard."""
    write_tar(
        tmp_path / "a.tar",
        [
            ("./deep/er/good.png", PNG),
            ("./deep/er/good.txt", b"slashes"),
            ("UPPER.PNG", PNG),
            ("UPPER.TXT", b"upper"),
            ("apart.png", PNG),
            ("mute.png", PNG),
            ("silent.png", PNG),
            ("silent.txt", b""),
            ("blind.txt", b"x"),
            ("record.json", b"{}"),
            ("apart.txt", b"its files lie apart"),
            ("twice.png", PNG),
            ("twice.txt", b"first"),
            ("twice.png", level(9)),
            ("twice.txt", b"second"),
            ("empty.png", b""),
            ("empty.txt", b"x"),
            ("noise.png", b"123"),
            ("noise.txt", b"x"),
            ("bomb.png", bomb(60_000, 60_000)),
            ("bomb.txt", b"x"),
            ("photo.v1.png", PNG),
            ("photo.v1.txt", b"one"),
            ("photo.v2.png", PNG),
            ("photo.v2.txt", b"two"),
            ("masked.png", PNG),
            ("masked.seg.png", PNG),
            ("masked.txt", b"with a mask"),
            ("._masked.png", b"of another system"),
            ("../../escape.png", PNG),
            ("../../escape.txt", b"x"),
            ("/etc/passwd.png", PNG),
            ("/etc/passwd.txt", b"x"),
        ],
    )
    before = {path.name for path in tmp_path.parent.iterdir()}
    index = opened(str(tmp_path / "a.tar"), tmp_path)
    found = [key.removeprefix("./") for key in keys(index)]
    assert found == [
        "deep/er/good", "UPPER", "apart", "twice", "photo.v1", "photo.v2", "masked", "../../escape", "/etc/passwd",
    ]  # fmt: skip
    assert index[3].text.size == len(b"second"), "of one name the last, as tar has it"
    assert reasons(index) == sorted(
        ["no caption"] * 2
        + ["no image"] * 2
        + ["replaced by a later file of the same name", "empty image file", "unreadable image", "too many pixels"]
    )
    assert {path.name for path in tmp_path.parent.iterdir()} == before, "no path of a tar is written"
    assert not os.path.exists("/etc/passwd.png")


def test_truncated_shards_keep_what_is_whole(tmp_path):
    files = [(f"{i}.{ending}", data) for i in range(4) for ending, data in (("txt", b"x"), ("png", PNG * 50))]
    whole = write_tar(tmp_path / "whole.tar", files)
    data = Path(whole).read_bytes()
    place = list_shard(whole).samples[2].image
    for name, cut, kept, lost in (
        ("in-image", place.offset + 10, 2, ["no image", "shard cut off"]),
        ("in-header", place.offset - 300, 2, ["no image", "shard damaged or without an end"]),
        ("between-members", place.offset + place.size + -place.size % 512, 3, ["shard damaged or without an end"]),
        ("overwritten", None, 2, ["no image", "shard damaged or without an end"]),
    ):
        (tmp_path / f"{name}.tar").write_bytes(
            data[:cut] if cut else data[: place.offset - 512] + b"\xff" * 512 + data[place.offset :]
        )
        index = opened(str(tmp_path / f"{name}.tar"), tmp_path)
        assert keys(index) == [str(i) for i in range(kept)], name
        assert reasons(index) == lost, name


def test_what_is_no_tar_is_named(tmp_path):
    import gzip

    numbered(tmp_path, [5])
    (tmp_path / "train-1.tar").write_bytes(b"<html>404</html>" * 100)
    (tmp_path / "train-2.tar").write_bytes(b"")
    (tmp_path / "train-3.tar").write_bytes(gzip.compress((tmp_path / "train-000-000000.tar").read_bytes()))
    write_tar(tmp_path / "train-4.tar", [])
    index = opened(f"{tmp_path}/train-*.tar", tmp_path)
    assert len(index) == 5
    assert reasons(index) == ["empty shard file", "not a tar file", "not a tar file but gzip; unpack it"]
    assert all(not skip.key for skip in index.skipped)
    with pytest.raises(ValueError, match=r"no samples in 1 shards .*not a tar file"):
        opened(f"{tmp_path}/train-1.tar", tmp_path)


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
    with pytest.raises(ValueError, match="none of 11 passes the filters"):
        opened(pattern, tmp_path, ["aesthetic > 100"])
    first, second = (opened(pattern, tmp_path, [f"aesthetic > {least}"]) for least in (0.1, 0.2))
    assert first.fingerprint != second.fingerprint != opened(pattern, tmp_path).fingerprint
    assert np.array_equal(first.column("number"), np.arange(2, 10))


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


def test_too_many_left_out_is_an_error_that_lists_the_worst_shards(tmp_path, caplog):
    good = [(f"{i}.{e}", d) for i in range(99) for e, d in (("png", PNG), ("txt", b"x"))]
    write_tar(tmp_path / "good.tar", [*good, ("mute.png", PNG)])
    Health(0.01).check_index(opened(str(tmp_path / "good.tar"), tmp_path))
    assert "left out sample 'mute'" in caplog.text
    assert "1 of 100 samples cannot be used (no caption: 1)" in caplog.text
    write_tar(tmp_path / "bad.tar", [*good[:20], *((f"mute{i}.png", PNG) for i in range(5))])
    index = opened([str(tmp_path / "good.tar"), str(tmp_path / "bad.tar")], tmp_path)
    with pytest.raises(ValueError, match=r"6 of 115 .*no caption: 6.*bad.tar \(5\).*max_broken=0.01"):
        Health(0.01).check_index(index)
    Health(0.06).check_index(index)


def test_a_lost_shard_counts_as_an_average_one(tmp_path):
    numbered(tmp_path, [10] * 9)
    (tmp_path / "train-x.tar").write_bytes(b"<html>404</html>" * 100)
    index = opened(f"{tmp_path}/train-*.tar", tmp_path)
    with pytest.raises(ValueError, match="10 of 100 samples"):
        Health(0.09).check_index(index)
    Health(0.1).check_index(index)


@pytest.mark.parametrize("where", [0.5, 0.25])
def test_a_cut_shard_counts_as_what_it_lacks(tmp_path, where):
    numbered(tmp_path, [20] * 5)
    last = sorted(tmp_path.glob("*.tar"))[-1]
    last.write_bytes(last.read_bytes()[: int(where * last.stat().st_size) // 512 * 512])
    index = opened(f"{tmp_path}/train-*.tar", tmp_path)
    missing = 100 - len(index)
    assert 20 * (1 - where) - 3 <= missing <= 20 * (1 - where) + 3
    with pytest.raises(ValueError, match="samples cannot be used"):
        Health((missing - 1) / 100).check_index(index)
    Health((missing + 2) / 100).check_index(index)


def test_tar_headers_that_lead_nowhere(tmp_path):
    """Negative, huge and nonsensical sizes, chains of long names: what stands before them is kept, and nothing hangs."""

    def header(size, kind=tarfile.REGTYPE):
        member = tarfile.TarInfo("x.png")
        member.type = kind
        data = bytearray(member.tobuf(tarfile.GNU_FORMAT))
        data[124:136] = size
        data[148:156] = b" " * 8
        data[148:156] = b"%06o\0 " % sum(data)
        return bytes(data)

    start = Path(write_tar(tmp_path / "ok.tar", [("a.png", PNG), ("a.txt", b"x")])).read_bytes()[:2048]
    for name, more in {
        "negative": header(b"\xff" * 12),
        "huge": header(b"\x80" + b"\xff" * 11),
        "chain": header(b"00000000000\0", tarfile.GNUTYPE_LONGNAME) * 5000,
        "pax": header(b"77777777777\0", tarfile.XHDTYPE),
    }.items():
        (tmp_path / f"{name}.tar").write_bytes(start + more)
        index = opened(str(tmp_path / f"{name}.tar"), tmp_path)
        assert keys(index) == ["a"], name
        assert len(index.skipped) == 1, name


def test_a_fingerprint_knows_the_numbers_that_filters_ask_for(tmp_path):
    def of(value):
        write_tar(tmp_path / "a.tar", [("a.png", PNG), ("a.txt", b"x"), ("a.json", b'{"aesthetic": %d}' % value)])
        return opened(str(tmp_path / "a.tar"), tmp_path, ["aesthetic > 1"]).fingerprint

    assert of(6) != of(4)


def test_places_are_held_up_to_a_limit(tmp_path):
    index = opened(numbered(tmp_path, [4] * 6), tmp_path)
    expected = keys(index)
    one = next(iter(index._places.held.values())).nbytes
    index._places = shard_index.PlacesCache(limit=2 * one)
    assert keys(index) == expected
    assert len(index._places.held) == 2
    assert index._places.size == sum(places.nbytes for places in index._places.held.values())


def test_moved_shards_are_the_same_data(tmp_path):
    pattern = numbered(tmp_path / "a", [3, 2])
    before = opened(pattern, tmp_path).fingerprint
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    assert opened(f"{tmp_path}/b/*.tar", tmp_path).fingerprint == before


def test_index_is_small(tmp_path):
    """An index costs less than a hundredth of its shard for photographs of usual size."""
    data = encoded(Image.effect_noise((256, 256), 60).convert("RGB"), "jpg")
    write_shards(
        ({"__key__": f"{i:09d}", "jpg": data, "txt": b"x", "json": b'{"a": 1, "b": 2}'} for i in range(200)),
        tmp_path, "p", samples_per_shard=200,
    )  # fmt: skip
    (summary,) = index_shards(find_shards(f"{tmp_path}/p*.tar", tmp_path), tmp_path)
    assert len(Index([summary])) == 200
    assert os.path.getsize(summary.file) < os.path.getsize(summary.path) / 100
