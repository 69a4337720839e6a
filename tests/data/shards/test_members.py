"""Hostile and damaged tar files: what is whole is kept, and the rest is left out under its reason."""

import io
import os
import tarfile
import tracemalloc
from pathlib import Path

import pytest

from ldm.data.shards.grouping import list_shard
from ldm.data.shards.members import Forward, read_members
from tests.data.small_shards import keys, level, numbered, opened, write_tar
from tests.data.test_decode import bomb

PNG = level(7)


def reasons(index):
    return sorted(skip.reason for skip in index.skipped)


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
    place = list_shard(whole).paired.samples[2].image
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


def test_members_that_were_read_are_not_held():
    """`tarfile` keeps each in its attribute `members`, which is not documented; if it is renamed, this fails."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for number in range(3000):
            archive.addfile(tarfile.TarInfo(f"{number:06d}.txt"))
    file.seek(0)
    tracemalloc.start()
    try:
        assert sum(not member.fault for member in read_members(Forward(file))) == 3000
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 500_000, "3000 members that are held take more than a megabyte"
