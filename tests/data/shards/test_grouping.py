"""Whatever is in a tar, both readers find the same samples, and nothing disappears: what is read and what is counted is all."""

import bz2
import gzip
import io
import lzma
import os
import random
import tarfile
from collections import Counter
from pathlib import Path

import pytest
import webdataset

from ldm.data.bad_samples import BadSampleCounter
from ldm.data.endings import PARTS
from ldm.data.shards.dataset_index import DatasetIndex, index_shards
from ldm.data.shards.grouping import EXTRA, REPLACED, Leftover, list_shard, plain, split_name
from ldm.data.shards.shard_reader import ShardReader
from tests.data.small_shards import keys as keys_of
from tests.data.small_shards import level, opened, write_tar

PNG = level(7)
OTHER = level(9)


def pair(key, text=b"x", data=PNG):
    return [(f"{key}.png", data), (f"{key}.txt", text)]


def linked(name, target, kind):
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member


def zoo_tar(path, entries):
    """A tar of (name, bytes) and of ready-made members."""
    with tarfile.open(path, "w") as archive:
        for entry in entries:
            if isinstance(entry, tarfile.TarInfo):
                archive.addfile(entry)
            else:
                member = tarfile.TarInfo(entry[0])
                member.size = len(entry[1])
                archive.addfile(member, io.BytesIO(entry[1]))
    return str(path)


FOLDER = linked("folder.png", "", tarfile.DIRTYPE)

ZOO = {
    "plain": (pair("a") + pair("b"), ["a", "b"], {}),
    "several of one name": (
        [("a.png", PNG), ("a.1.png", PNG), ("a.2.png", PNG), ("a.txt", b"x"), *pair("b")],
        ["a", "b"],
        {EXTRA: 2},
    ),
    "several of one name without a caption": (
        [("a.png", PNG), ("a.1.png", PNG), ("a.2.png", PNG), ("b.png", PNG)],
        [],
        {"no caption": 2, EXTRA: 2},
    ),
    "each with its own caption": (pair("a") + pair("a.1") + pair("a.2"), ["a", "a.1", "a.2"], {}),
    "dots in names": (
        pair("Shot 10.33") + pair("Shot 10.34") + pair("v1.0/x.y.z"),
        ["Shot 10.33", "Shot 10.34", "v1.0/x.y.z"],
        {},
    ),
    "masks": (
        [
            ("a.mask.png", PNG), ("a.png", PNG), ("a.seg.png", PNG), ("a.txt", b"x"), ("a.cls", b"3"),
            *pair("b.c"), ("b.c.seg.png", PNG),
        ],
        ["a", "b.c"],
        {},
    ),
    "no captions": (
        [
            ("a.png", PNG), ("a.cls", b"3"), ("b.depth.png", PNG), ("b.jpg", PNG), ("c.png", PNG),
            ("d.x.png", PNG), ("d.x.seg.png", PNG),
        ],
        ["a", "b", "d.x"],
        {"no caption": 1},
    ),
    "a mask with a caption of its own": (pair("a") + pair("a.seg"), ["a", "a.seg"], {}),
    "a mask of no image": ([("a.seg.png", PNG), ("a.txt", b"x"), *pair("b")], ["b"], {"no caption": 1, "no image": 1}),
    "files of no image": (
        [("lone.txt", b"x"), *pair("a"), ("README.md", b"x"), ("Makefile", b"x"), (".DS_Store", b"x"), ("._a.png", b"x"), FOLDER],
        ["a"],
        {"no image": 2, "hidden, or without an ending": 3},
    ),
    "two images of one key": ([("a.png", PNG), ("a.jpg", PNG), ("a.txt", b"x")], ["a"], {EXTRA: 1}),
    "links": (
        [
            *pair("a"), linked("b.png", "a.png", tarfile.SYMTYPE), ("b.txt", b"x"), linked("c.png", "gone.png", tarfile.LNKTYPE),
            ("d.png", PNG), linked("d.txt", "a.txt", tarfile.SYMTYPE), linked("e.png", "", tarfile.FIFOTYPE),
        ],
        ["a"],
        {"symbolic link": 1, "hard link to a file that is not before it in this shard": 1, "no caption": 1, "device or pipe": 1},
    ),
    "capitals": ([("A.PNG", PNG), ("A.TXT", b"x"), *pair("a")], ["A", "a"], {}),
    "one folder by two names": ([("./a.png", PNG), ("a.txt", b"x")], ["./a"], {}),
    "endless name": (pair("n" * 300) + pair("ü/ö"), ["n" * 300, "ü/ö"], {}),
    "corrected": (
        [("a.png", PNG), ("a.txt", b"old"), ("a.txt", b"new"), *pair("b"), ("b.png", OTHER)],
        ["a", "b"],
        {REPLACED: 2},
    ),
    "images alone": (
        [
            ("a.png", PNG), ("a.normal.png", PNG), ("b.foo.png", PNG), ("b.png", PNG), ("b.note", b"x"),
            ("c.jpg", PNG), ("c.png", PNG), ("d.png", PNG), ("d.txt", b""), *pair("e"), ("x/Shot 10.33.png", PNG),
            ("x/Shot 10.34.png", PNG), ("f.seg.png", PNG), ("g.webp", b""), ("g.webp", PNG), ("Mask.PNG", PNG),
            ("h.safetensors", PNG),
        ],
        ["e"],
        {"no caption": 10, EXTRA: 2, REPLACED: 1},
    ),
}  # fmt: skip

ALONE = {
    "several of one name without a caption": (["a", "b"], {EXTRA: 2}),
    "no captions": (["a", "b", "c", "d.x"], {}),
    "a mask of no image": (["b"], {"no image": 2}),
    "links": (
        ["a", "d"],
        {
            "symbolic link": 2,
            "hard link to a file that is not before it in this shard": 1,
            "device or pipe": 1,
        },
    ),
    "images alone": (
        ["a", "b", "c", "d", "e", "x/Shot 10.33", "x/Shot 10.34", "g", "Mask", "h"],
        {EXTRA: 4, "no image": 1, REPLACED: 1},
    ),
}
"""Those shards of the zoo that have other samples where images alone are samples: the keys, and the reasons."""


def streamed(shard, parts=PARTS, *, alone=False):
    skipped = []
    samples = list(ShardReader(shard, skipped, parts, alone=alone))
    return samples, skipped


def files_of(sample):
    """Places or bytes of all files of a sample, by ending."""
    image, text, record, parts = sample[2:]
    return {"image": image, "txt": text, "json": record, **parts}


def present(shard):
    """All files in a tar, by Python's own reading."""
    with tarfile.open(shard, ignore_zeros=True) as archive:
        return [plain(member.name) for member in archive if not member.isdir()]


def counted(skipped, names):
    """How many files what was left out stands for: one, or all of a key."""
    total = 0
    for skip in skipped:
        alike = {split_name(name) for name in names if (split_name(name) or [""])[0] == plain(skip.key)}
        total += 1 if isinstance(skip, Leftover) or skip.reason == REPLACED else len(alike)
    return total


def by_reason(skipped):
    return dict(
        Counter(
            skip.reason.replace("that a stream has passed", "that is not before it in this shard") for skip in skipped
        )
    )


@pytest.mark.parametrize("alone", [False, True])
@pytest.mark.parametrize("name", ZOO)
def test_what_is_read_and_what_is_counted_is_all_that_is_there(tmp_path, name, alone):
    entries, expected, reasons = ZOO[name]
    if alone:
        expected, reasons = ALONE.get(name, (expected, reasons))
    shard = zoo_tar(tmp_path / "a.tar", entries)
    names = present(shard)
    contents = list_shard(shard)[alone]
    assert [sample.key for sample in contents.samples] == expected
    assert by_reason(contents.skipped) == reasons
    read = sum(extent.size >= 0 for sample in contents.samples for extent in files_of(sample).values())
    assert read + counted(contents.skipped, names) == len(names)

    samples, skipped = streamed(shard, alone=alone)
    samples.sort(key=lambda sample: expected.index(sample.key))
    assert [sample.key for sample in samples] == expected
    assert by_reason(skipped) == reasons
    read = sum(part is not None for sample in samples for part in files_of(sample).values())
    assert read + counted(skipped, names) == len(names)
    with open(shard, "rb") as file:
        for sample, lying in zip(samples, contents.samples, strict=True):
            assert files_of(sample).keys() == files_of(lying).keys()
            for ending, data in files_of(sample).items():
                extent = files_of(lying)[ending]
                file.seek(max(0, extent.offset))
                assert data == (file.read(extent.size) if extent.size >= 0 else None)


@pytest.mark.parametrize("alone", [False, True])
def test_the_index_counts_the_same(tmp_path, alone):
    odd = [("lone.txt", b"x"), *pair("n", data=b""), ("half.png", PNG[:30]), ("half.normal.png", PNG)]
    shard = zoo_tar(tmp_path / "a.tar", ZOO["masks"][0] + ZOO["corrected"][0][2:] + odd + ZOO["images alone"][0])
    names, shards = present(shard), index_shards([shard], tmp_path, alone=alone)
    for wanted in ([], ["cls"], ["seg.png", "mask.png"], PARTS):
        index = DatasetIndex(shards, read=wanted)
        files = [files_of(index[number]) for number in range(len(index))]
        read = sum(
            extent.size >= 0
            for sample in files
            for ending, extent in sample.items()
            if ending in ("image", "txt", "json", *wanted)
        )
        assert read + counted(index.skipped, names) + sum(count for _, count in index.leftovers) == len(names)


def test_parts_that_nobody_wants_are_counted_as_not_read(tmp_path):
    shard = zoo_tar(tmp_path / "a.tar", ZOO["masks"][0])
    for wanted, left in (((), 4), (("cls",), 3), (("seg.png",), 2), (PARTS, 0)):
        expected = {EXTRA: left} if left else {}
        index = DatasetIndex(opened(shard, tmp_path).shards, read=wanted)
        assert {leftover.reason: count for leftover, count in index.leftovers} == expected
        samples, skipped = streamed(shard, wanted)
        assert by_reason(skipped) == expected
        assert [set(sample.parts) for sample in sorted(samples, key=lambda sample: sample.key)] == [
            {"cls", "mask.png", "seg.png"}.intersection(wanted), {"seg.png"}.intersection(wanted),
        ]  # fmt: skip


@pytest.mark.parametrize("padding", [0, 512, 30 * 512])
def test_what_follows_an_end_mark_is_read(tmp_path, padding):
    for name, keys in (("a", "abc"), ("b", "de"), ("c", "c")):
        write_tar(tmp_path / f"{name}.tar", [file for key in keys for file in pair(key)])
    whole = tmp_path / "both.tar"
    parts = [(tmp_path / f"{name}.tar").read_bytes() for name in "abc"]
    whole.write_bytes(bytes(padding).join(parts) + bytes(padding))
    samples, skipped = streamed(str(whole))
    assert [sample.key for sample in samples] == ["a", "b", "c", "d", "e"]
    assert by_reason(skipped) == {"after its sample, which a stream has passed on": 2}
    contents = list_shard(str(whole)).paired
    assert [sample.key for sample in contents.samples] == ["a", "b", "c", "d", "e"]
    assert by_reason(contents.skipped) == {REPLACED: 2}
    assert contents.samples[2].image.offset > len(parts[0]) + len(parts[1]), "the last one counts"


@pytest.mark.parametrize("junk", [b"<html>" * 300, b"\xff" * 1000, write_tar])
def test_junk_after_the_end_is_damage(tmp_path, junk):
    shard = Path(write_tar(tmp_path / "a.tar", pair("a")))
    if junk is write_tar:  # a second archive, cut off in its first header
        junk = shard.read_bytes()[:300]
    shard.write_bytes(shard.read_bytes() + junk)
    samples, skipped = streamed(str(shard))
    contents = list_shard(str(shard)).paired
    assert [sample.key for sample in samples] == [sample.key for sample in contents.samples] == ["a"]
    assert (
        by_reason(skipped) == by_reason(contents.skipped) == {"something else than a tar after the end of the shard": 1}
    )


@pytest.mark.parametrize("cut", range(0, 6 * 1024, 300))
def test_both_readers_see_damage_alike(tmp_path, cut):
    data = Path(write_tar(tmp_path / "whole.tar", pair("a", data=PNG * 20) + pair("b"))).read_bytes()
    shard = tmp_path / "cut.tar"
    shard.write_bytes(data[:cut])
    samples, skipped = streamed(str(shard))
    contents = list_shard(str(shard)).paired
    assert [sample.key for sample in samples] == [sample.key for sample in contents.samples]
    assert by_reason(skipped) == by_reason(contents.skipped)
    assert any(not skip.key for skip in skipped)


def test_a_correction_counts_and_is_said(tmp_path, caplog):
    entries = [file for number in range(50) for file in pair(f"{number}")] + [
        ("0.txt", b"corrected"),
        ("1.txt", b"too"),
    ]
    index = opened(write_tar(tmp_path / "a.tar", entries), tmp_path)
    assert index[0].text.size == len(b"corrected")
    BadSampleCounter(0.01).check_index(index)
    assert "2 files are not read: replaced by a later file of the same name; one is '0.txt' in" in caplog.text
    skipped = streamed(str(tmp_path / "a.tar"))[1]
    assert by_reason(skipped) == {"after its sample, which a stream has passed on": 2}
    bad_samples = BadSampleCounter(0.01)
    bad_samples.count(50, skipped, None)
    assert "1 file is not read: after its sample, which a stream has passed on; one is '0.txt'" in caplog.text


def test_a_hard_link_is_what_it_stands_for(tmp_path):
    (tmp_path / "a.png").write_bytes(PNG)
    for name, target in (("b.png", "a.png"), ("a.txt", None), ("b.txt", "a.txt")):
        os.link(tmp_path / target, tmp_path / name) if target else (tmp_path / name).write_bytes(b"x")
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name in ("a.png", "a.txt", "b.png", "b.txt"):
            archive.add(tmp_path / name, f"./{name}")
        assert archive.getmember("./b.png").islnk()
    contents = list_shard(str(tmp_path / "a.tar")).paired
    assert [(sample.image, sample.text) for sample in contents.samples] == [contents.samples[0][2:4]] * 2
    samples, skipped = streamed(str(tmp_path / "a.tar"))
    assert [sample.key for sample in samples] == ["./a"]
    assert by_reason(skipped) == {"hard link to a file that is not before it in this shard": 1}


SHUFFLED = [
    *("a.png", "a.txt", "a.json", "a.cls", "a.1.png", "a.1.txt", "a.seg.png", "b.png", "b.txt", "b.c.png", "b.c.txt"),
    *("b.jpg", "b.c.d.png", "d.png", "x/e.png", "x/e.txt", "x/e.mask.png", "x/e.1.seg.png", "f.safetensors", "a.note"),
]


@pytest.mark.parametrize("seed", range(40))
def test_images_alone_change_nothing_where_files_are_needed(tmp_path, seed):
    """With images alone there are the same samples and more, and as many files; in a sorted shard, both readers agree."""
    rng = random.Random(seed)
    names = sorted(rng.sample(SHUFFLED, rng.randrange(1, len(SHUFFLED))))
    shard = zoo_tar(
        tmp_path / "a.tar", [(name, PNG if name[-3:] in ("png", "jpg") else rng.choice([b"", b"{}"])) for name in names]
    )
    listing = list_shard(shard)
    assert {sample.key for sample in listing.paired.samples} <= {sample.key for sample in listing.alone.samples}
    added = [sample for sample in listing.alone.samples if sample not in listing.paired.samples]
    assert all(sample.record.size <= 0 and sample.text.size <= 0 and not sample.parts for sample in added)
    assert {sample.key for sample in added} <= {
        skip.key for skip in listing.paired.skipped if skip.reason == "no caption"
    }
    for alone, contents in enumerate(listing):
        read = sum(extent.size >= 0 for sample in contents.samples for extent in files_of(sample).values())
        assert read + counted(contents.skipped, names) == len(names)
        samples, skipped = streamed(shard, alone=bool(alone))
        assert sorted(sample.key for sample in samples) == sorted(sample.key for sample in contents.samples)
        assert by_reason(skipped) == by_reason(contents.skipped)


def test_a_late_file_of_an_image_is_no_image_of_its_own(tmp_path):
    """In an index nor in a stream, although the stream has handed out its image long before."""
    shard = write_tar(tmp_path / "a.tar", [("a.png", PNG), ("b.png", PNG), ("a.normal.png", PNG), ("c.png", PNG)])
    (summary,) = index_shards([shard], tmp_path, alone=True)
    samples, skipped = streamed(shard, alone=True)
    assert keys_of(DatasetIndex([summary])) == [sample.key for sample in samples] == ["a", "b", "c"]
    assert by_reason(skipped) == {EXTRA: 1}
    assert summary.leftovers == {EXTRA: (1, "a.normal.png")}


def test_a_stream_of_images_alone_holds_one(tmp_path):
    shard = write_tar(tmp_path / "a.tar", [(f"{number}.png", PNG) for number in range(100)])
    reader, held = ShardReader(shard, [], alone=True), []
    for _ in reader:
        held.append(sum(len(group.files) for group in reader.grouping.groups.values()))
    assert len(held) == 100
    assert max(held) <= 1


def test_a_stream_holds_no_bytes_of_extras(tmp_path):
    shard = write_tar(
        tmp_path / "a.tar", [("a.png", PNG), *((f"a.{number}.png", PNG) for number in range(100)), ("b.png", PNG)]
    )
    reader = ShardReader(shard, [], alone=True)
    iterator = iter(reader)
    assert next(iterator).key == "a"
    held = [member for group in reader.grouping.groups.values() for member in group.files.values()]
    assert sum(len(member.data) for member in held) <= 3 * len(PNG)


def test_a_stream_holds_no_more_than_what_is_open(tmp_path):
    """Ten thousand files whose names agree up to the first dot are not held until the last has been read."""
    shard = write_tar(
        tmp_path / "a.tar", [file for number in range(200) for file in pair(f"v1.{number}", data=PNG * 100)]
    )
    reader, held = ShardReader(shard, []), []
    for _ in reader:
        held.append(
            sum(len(member.data) for group in reader.grouping.groups.values() for member in group.files.values())
        )
    assert len(held) == 200
    assert max(held) < 3 * 100 * len(PNG)


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress])
def test_a_stream_unpacks_what_is_compressed(tmp_path, pack):
    data = Path(write_tar(tmp_path / "a.tar", pair("a") + pair("b"))).read_bytes()
    (tmp_path / "a.tar.packed").write_bytes(pack(data + data[:1024]))
    samples, skipped = streamed(str(tmp_path / "a.tar.packed"))
    assert [sample.image for sample in samples] == [PNG, PNG]
    assert skipped[0].reason == "after its sample, which a stream has passed on"
    (tmp_path / "cut.tar.packed").write_bytes(pack(data)[:-30])
    assert any("unreadable shard" in skip.reason for skip in streamed(str(tmp_path / "cut.tar.packed"))[1])


def test_a_command_that_fails_is_said_after_what_it_gave(tmp_path, monkeypatch):
    """Also where it has ended before anything was read."""
    open_command = webdataset.gopen

    def ended(name):
        source = open_command(name)
        source.proc.wait()
        return source

    monkeypatch.setattr(webdataset, "gopen", ended)
    write_tar(tmp_path / "a.tar", pair("a"))
    samples, skipped = streamed(f"pipe:cat {tmp_path}/a.tar; false")
    assert [sample.key for sample in samples] == ["a"]
    assert [skip.reason for skip in skipped] == ["unreadable shard: OSError"]
