import hashlib
import io
import json
import os
import re
import runpy
import signal
import struct
import subprocess
import sys
import time
import zlib

import numpy as np
import pytest
from filelock import FileLock
from PIL import Image, features

from ldm.data.pack.packer import Packer
from ldm.data.shards.names import write_shards
from tests.conftest import ROOT, forked
from tests.data.packing import captioned, contents, encoded, images, pack, reasons, table, written


def test_a_sample_holds_the_files_bytes_its_caption_and_the_other_columns(tmp_path):
    folder = tmp_path / "images"
    images(folder / "sub.d", 1)
    rows = [("sub.d/000.png", ' a "cat",\nséated ', "3.5", "007", "7", "")]
    path = table(tmp_path / "c.csv", rows, ("file", "caption", "score", "id", "count", "note"))
    pack(tmp_path / "out", images=folder, captions=path)
    ((key, files),) = contents(tmp_path / "out").items()
    assert key == "sub_d/000_png"
    assert files["png"] == (folder / "sub.d" / "000.png").read_bytes()
    assert files["txt"].decode() == 'a "cat",\nséated'
    assert json.loads(files["json"]) == {
        **{"score": 3.5, "id": "007", "count": 7, "note": ""},
        **{"caption": 'a "cat",\nséated', "source": "sub.d/000.png", "width": 12, "height": 8},
    }


def test_shards_are_those_that_webdataset_writes(tmp_path):
    path = captioned(tmp_path / "images", 7)
    pack(tmp_path / "out", images=tmp_path / "images", captions=path, samples_per_shard=3)
    samples = contents(tmp_path / "out")
    assert list(samples) == sorted(samples, key=lambda key: hashlib.sha256(key.encode()).digest())
    again = [{"__key__": key, **{e: d for e, d in files.items() if e != "shard"}} for key, files in samples.items()]
    write_shards(again, tmp_path / "same", "train", samples_per_shard=3)
    names = sorted(path.name for path in (tmp_path / "same").iterdir())
    assert names == ["train-000000.tar", "train-000001.tar", "train-000002.tar"]
    assert all((tmp_path / "same" / name).read_bytes() == (tmp_path / "out" / name).read_bytes() for name in names)


def test_any_number_of_workers_writes_the_same_bytes(tmp_path):
    path = captioned(tmp_path / "images", 40)
    (tmp_path / "images" / "007.png").write_bytes(b"")
    folders = [tmp_path / "one", tmp_path / "two"]
    options = {"images": tmp_path / "images", "captions": path, "samples_per_shard": 7, "val_fraction": 0.2, "side": 4}
    for workers, out in enumerate(folders, 1):
        pack(out, workers=workers, **options)
    one, two = map(written, folders)
    assert one == two
    assert json.loads(one["summary.json"])["skipped"] == {"empty image file": {"count": 1, "first": ["007.png"]}}
    before = {path: path.stat().st_mtime_ns for path in folders[0].glob("*.tar")}
    assert len(before) >= 6
    pack(folders[0], **options)
    assert {path: path.stat().st_mtime_ns for path in folders[0].glob("*.tar")} == before, "all was done already"


@pytest.mark.e2e
def test_a_killed_packing_goes_on_and_ends_as_if_it_had_not_been(tmp_path):
    folder = images(tmp_path / "images", 1)
    noise = np.random.default_rng(0).integers(0, 255, (75, 75, 3), dtype=np.uint8)
    Image.fromarray(noise).resize((1500, 1500)).save(folder / "big.jpg")
    for number in range(100):
        os.link(folder / "big.jpg", folder / f"{number}.jpg")
        (folder / f"{number}.txt").write_text(f"number {number}")
    out, whole = tmp_path / "out", tmp_path / "whole"
    options = {"images": folder, "samples_per_shard": 4}
    arguments = [f"images={folder}", f"out={out}", "samples_per_shard=4", "val_fraction=0", "workers=2", "max_broken=1"]
    process = subprocess.Popen([sys.executable, "-m", "ldm.data.pack", *arguments], cwd=ROOT, stderr=subprocess.PIPE)
    while len(list(out.glob(".pack/train-*.json"))) < 3 and process.poll() is None:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()  # ends when the workers, which have the pipe, too, have left
    done = {
        path: path.stat().st_mtime_ns for path in out.glob("*.tar") if (out / ".pack" / f"{path.stem}.json").exists()
    }
    assert 3 <= len(done) < 25
    pack(out, **options)
    pack(whole, workers=2, **options)
    assert written(out) == written(whole)
    assert {path: path.stat().st_mtime_ns for path in done} == done, "finished shards are not written again"


def test_a_folder_is_not_continued_with_something_else(tmp_path):
    path = captioned(tmp_path / "images")
    options = {"images": tmp_path / "images", "captions": path}
    pack(tmp_path / "out", **options)
    with pytest.raises(ValueError, match=r"out was begun with something else \(side: None -> 4\); give what"):
        pack(tmp_path / "out", side=4, **options)
    changed = {"side": 4, "image_format": "png", "val_fraction": 0.5, "samples_per_shard": 3}
    with pytest.raises(ValueError, match="begun with something else") as error:
        pack(tmp_path / "out", **changed, **options)
    assert re.findall(r"(\w+): \S+ -> ", str(error.value)) == [
        "side",
        "image_format",
        "val_fraction",
        "samples_per_shard",
    ]
    path.write_text(path.read_text() + "000.png,again\n")
    with pytest.raises(ValueError, match=r"\(captions: 10 rows, \w+ -> 11 rows, \w+\)"):
        pack(tmp_path / "out", **options)
    (tmp_path / "out" / "pack.json").unlink()
    with pytest.raises(
        ValueError, match=r"not written by this program \(summary.json, train-000000.tar\); nothing was"
    ):
        pack(tmp_path / "out", **options)


def test_a_samples_split_does_not_depend_on_the_others(tmp_path):
    path = captioned(tmp_path / "images", 150)
    few = table(tmp_path / "few.csv", [(f"{n:03d}.png", f"number {n}") for n in range(80)])
    splits = []
    for captions in (path, few):
        out = tmp_path / captions.stem
        summary = pack(out, images=tmp_path / "images", captions=captions, val_fraction=0.3, samples_per_shard=30)
        samples = contents(out)
        assert summary.splits["val"].samples == sum(files["shard"].startswith("val") for files in samples.values())
        splits.append({key: files["shard"][:3] for key, files in samples.items()})
    many, some = splits
    assert len(some) == 80
    assert all(many[key] == split for key, split in some.items())
    assert 0.2 < sum(split == "val" for split in many.values()) / 150 < 0.4


def test_whatever_cannot_be_used_is_counted_under_its_reason(tmp_path, monkeypatch):
    monkeypatch.setattr("ldm.data.pack.files.MAX_FILE_BYTES", 100_000)
    folder = images(tmp_path / "images", 2)
    (tmp_path / "outside.png").write_bytes(encoded())
    (folder / "empty.png").write_bytes(b"")
    (folder / "text.jpg").write_text("<html>404</html>")
    (folder / "cut.jpg").write_bytes(encoded(64, 64, form="jpeg")[:-40])
    (folder / "bomb.png").write_bytes(_header_of(2**15, 2**15))
    (folder / "large.png").write_bytes(bytes(100_001))
    (folder / "folder.png").mkdir()
    os.mkfifo(folder / "pipe.png")
    (folder / "a.b.png").write_bytes(encoded())
    (folder / "a_b.png").write_bytes(encoded())
    names = (
        "empty.png text.jpg cut.jpg bomb.png large.png folder.png pipe.png a.b.png a_b.png nowhere.png 000.png/x.png"
    )
    outside = [
        "../outside.png",
        "../../../../etc/passwd",
        "/etc/passwd",
        str(tmp_path / "outside.png"),
        "x/../../y.png",
    ]
    strange = ["new\nline.png", "bell\a.png", ""]
    rows = [(name, "x") for name in [*names.split(), *outside, *strange, "n" * 300 + ".png"]]
    rows += [("000.png", " \t"), ("001.png", "one"), ("./001.png", "twice"), ("001.png", "three", "four"), ("001.png",)]
    summary = pack(tmp_path / "out", images=folder, captions=table(tmp_path / "c.csv", rows))
    assert reasons(summary) == {
        "empty image file": 1,
        "unreadable image": 2,
        "too many pixels": 1,
        "file too large": 1,
        "not a file": 2,
        "missing file": 2,
        "path outside the folder": 5,
        "unusable file name": 2,
        "no image named": 1,
        "unreadable file": 1,
        "no caption": 2,
        "duplicate key": 1,
        "more fields than columns": 1,
    }
    assert sorted(contents(tmp_path / "out")) == ["001_png", "a_b_png"]
    assert summary.rows == len(rows) == summary.skipped.broken + summary.merged + 2
    assert summary.merged == 1
    stored = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert stored["skipped"] == summary.skipped.skipped
    assert stored["train"] == {
        "samples": 2,
        "shards": 1,
        "bytes": (tmp_path / "out" / "train-000000.tar").stat().st_size,
    }
    assert stored["skipped"]["too many pixels"]["first"] == [
        "bomb.png: Image size (1073741824 pixels) exceeds limit of 178956970 pixels, could be decompression bomb DOS attack."
    ]


def _header_of(width, height):
    """A PNG that says it is large."""
    parts = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)), (b"IDAT", zlib.compress(b""))]
    chunks = [struct.pack(">I", len(d)) + name + d + struct.pack(">I", zlib.crc32(name + d)) for name, d in parts]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def test_too_many_broken_rows_are_an_error_after_all_is_written(tmp_path):
    path = captioned(tmp_path / "images", 10)
    (tmp_path / "images" / "003.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"1 of 10 rows cannot be used \(1 unreadable image: 003.png.*max_broken=0.05"):
        pack(tmp_path / "out", images=tmp_path / "images", captions=path, max_broken=0.05)
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["train"]["samples"] == 9
    assert (
        pack(tmp_path / "out", images=tmp_path / "images", captions=path, max_broken=0.2).splits["train"].samples == 9
    )


def test_a_table_says_its_next_forked(tmp_path):
    path = captioned(tmp_path / "images", 40)
    summary = pack(tmp_path / "out", images=tmp_path / "images", captions=path, val_fraction=0.5)
    shards = f"data.train='{tmp_path}/out/train-*.tar' data.val='{tmp_path}/out/val-*.tar'"
    assert summary.table().endswith(f"next: python train.py experiment=txt2img_shards {shards}")
    assert "40 rows" in summary.table()
    assert "validation" not in summary.table()
    alone = pack(tmp_path / "alone", images=tmp_path / "images", captions=path, val_fraction=0).table()
    assert "training needs validation images, too" in alone
    assert alone.endswith("data.val=...")


@pytest.mark.parametrize("columns", [("file_name", "text"), ("Image", "CAPTION"), ("path", "prompt"), ("x", "y")])
def test_columns_are_found_or_named(tmp_path, columns):
    images(tmp_path / "images", 1)
    path = table(tmp_path / "c.csv", [("1", "000.png", "hello")], ("id", *columns))
    if columns == ("x", "y"):
        with pytest.raises(ValueError, match=r"no column with a usual name.*image_column=NAME, one of id, x, y"):
            pack(tmp_path / "out", images=tmp_path / "images", captions=path)
        with pytest.raises(ValueError, match=r"no column 'z'; give caption_column=NAME, one of id, x, y"):
            pack(tmp_path / "out", images=tmp_path / "images", captions=path, image_column="x", caption_column="z")
        pack(tmp_path / "out", images=tmp_path / "images", captions=path, image_column="x", caption_column="y")
    else:
        pack(tmp_path / "out", images=tmp_path / "images", captions=path)
    record = json.loads(contents(tmp_path / "out")["000_png"]["json"])
    assert record == {"id": 1, "caption": "hello", "source": "000.png", "width": 12, "height": 8}


@pytest.mark.parametrize(("ending", "between"), [("csv", ";"), ("csv", "\t"), ("tsv", "\t"), ("csv", ",")])
def test_tables_are_read_with_semicolons_and_tabs_as_spreadsheets_write_them(tmp_path, ending, between):
    images(tmp_path / "images", 2)
    rows = [
        ("file", "caption"),
        ("000.png", "red; or blue" if between != ";" else "red, or blue"),
        ("001.png", "green"),
    ]
    path = tmp_path / f"c.{ending}"
    path.write_text("".join(f'"{one}"{between}"{two}"\r\n' for one, two in rows), encoding="utf-8-sig")
    pack(tmp_path / "out", images=tmp_path / "images", captions=path)
    assert {one["txt"].decode() for one in contents(tmp_path / "out").values()} == {rows[1][1], "green"}


def test_a_table_of_labels_needs_no_captions(tmp_path):
    """As a .json beside an image needs none that has a label or boxes."""
    images(tmp_path / "images", 4)
    path = table(
        tmp_path / "c.csv", [(f"{n:03d}.png", label) for n, label in enumerate((3, 0, "", "cat"))], ("file", "label")
    )
    summary = pack(tmp_path / "out", images=tmp_path / "images", captions=path)
    found = contents(tmp_path / "out")
    assert {key: json.loads(files["json"])["label"] for key, files in found.items()} == {"000_png": 3, "001_png": 0}
    assert all("txt" not in files for files in found.values())
    assert reasons(summary) == {"unreadable label": 2}
    assert summary.experiment == "cin256"


def test_an_image_of_a_table_needs_no_caption_where_a_map_lies_beside_it(tmp_path):
    images(tmp_path / "images", 2)
    Image.new("L", (12, 8), 3).save(tmp_path / "images" / "000.seg.png")
    path = table(tmp_path / "c.csv", [("000.png", ""), ("001.png", "")])
    summary = pack(tmp_path / "out", images=tmp_path / "images", captions=path)
    assert [*contents(tmp_path / "out")] == ["000_png"]
    assert reasons(summary) == {"no caption": 1}


def test_imagefolder_metadata_of_hugging_face(tmp_path):
    folder = images(tmp_path / "images", 3)
    lines = [{"file_name": f"{n:03d}.png", "text": f"number {n}", "tags": ["a", {"b": None}]} for n in range(2)]
    texts = [json.dumps(line) for line in lines]
    path = folder / "metadata.jsonl"
    path.write_text("\ufeff" + "\n".join([texts[0], "", "{broken", "[]", texts[1], '{"file_name": "002.png"}']))
    summary = pack(tmp_path / "out", captions=path)
    assert reasons(summary) == {"unreadable row": 2, "no caption": 1}
    samples = contents(tmp_path / "out")
    assert {key: files["txt"] for key, files in samples.items()} == {"000_png": b"number 0", "001_png": b"number 1"}
    assert json.loads(samples["000_png"]["json"])["tags"] == ["a", {"b": None}]
    with pytest.raises(ValueError, match=r"is a folder, not a table; give captions=.*metadata.jsonl"):
        Packer(tmp_path / "x", captions=folder)


def test_several_captions_of_an_image_are_kept(tmp_path):
    folder = images(tmp_path / "images", 1)
    path = folder / "metadata.jsonl"
    path.write_text(json.dumps({"file_name": "000.png", "caption": ["one", " ", "two"]}))
    pack(tmp_path / "out", captions=path)
    files = contents(tmp_path / "out")["000_png"]
    assert files["txt"] == b"one"
    assert json.loads(files["json"])["caption"] == ["one", "two"]


def test_text_files_beside_the_images(tmp_path):
    folder = images(tmp_path / "images", 2)
    images(folder / "deep" / "er", 1)
    (folder / "000.txt").write_bytes("schön".encode("utf-16"))
    (folder / "deep" / "er" / "000.txt").write_text("deep\n")
    (folder / "notes.txt").write_text("of no image")
    (folder / "._000.png").write_bytes(b"left by another system")
    (folder / "loop").symlink_to(folder)
    summary = pack(tmp_path / "out", images=folder)
    assert {k: f["txt"].decode() for k, f in contents(tmp_path / "out").items()} == {
        "000_png": "schön",
        "deep/er/000_png": "deep",
    }
    assert reasons(summary) == {"no caption": 1}
    assert summary.skipped.skipped["no caption"]["first"] == ["001.png: no 001.txt"]
    assert summary.others.skipped == {".txt of no image": {"count": 1, "first": ["notes.txt"]}}


def test_parquet_with_paths_and_with_images_inside(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    folder = images(tmp_path / "images", 2)
    rows = {"file": ["000.png", "001.png"], "text": ["zero", None], "score": [0.5, float("nan")]}
    parquet.write_table(pyarrow.table(rows), tmp_path / "paths.parquet")
    summary = pack(tmp_path / "a", images=folder, captions=tmp_path / "paths.parquet")
    assert reasons(summary) == {"no caption": 1}
    assert json.loads(contents(tmp_path / "a")["000_png"]["json"])["score"] == 0.5
    held = [{"bytes": encoded(color=color), "path": path} for color, path in [("red", "../r.png"), ("blue", None)]]
    for part in range(2):
        path = tmp_path / f"held-{part}.parquet"
        parquet.write_table(pyarrow.table({"image": held, "caption": ["red", "blue"], "thumb": [b"1", b"2"]}), path)
        held = [{"bytes": encoded(color="green"), "path": "g.png"}, {"bytes": b"", "path": "../../etc/passwd"}]
    summary = pack(tmp_path / "b", captions=tmp_path / "held-*.parquet", workers=2, samples_per_shard=1)
    assert reasons(summary) == {"empty image file": 1}
    samples = contents(tmp_path / "b")
    assert {key: files["txt"] for key, files in samples.items()} == {
        "r_png": b"red",
        "held-0/000000002": b"blue",
        "g_png": b"red",
    }
    assert samples["held-0/000000002"]["png"] == encoded(color="blue")
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 it is not")
    with pytest.raises(ValueError, match="bad.parquet cannot be read after row 0"):
        pack(tmp_path / "c", captions=tmp_path / "bad.parquet")


def test_parquet_without_pyarrow_says_what_to_install(tmp_path, monkeypatch):
    (tmp_path / "c.parquet").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ImportError, match=r'needs pyarrow; type pip install -e "\.\[parquet\]"'):
        pack(tmp_path / "out", captions=tmp_path / "c.parquet")


def test_the_ending_tells_the_real_format(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    files = {"jpeg.png": "jpeg", "png.jpg": "png", "webp.jpg": "webp", "gif.jpg": "gif", "bmp.jpg": "bmp"}
    if features.check("avif"):
        files["avif.png"] = "avif"
    for name, form in files.items():
        (folder / name).write_bytes(encoded(form=form))
        (folder / name).with_suffix(".txt").write_text(form)
    pack(tmp_path / "out", images=folder)
    endings = {"jpeg": "jpg", "webp": "webp"}
    samples = {files["txt"].decode(): files for files in contents(tmp_path / "out").values()}
    for form in files.values():
        ending = endings.get(form, "png")
        assert samples[form].keys() == {"shard", "json", "txt", ending}
        assert Image.open(io.BytesIO(samples[form][ending])).format == {"jpg": "JPEG"}.get(ending, ending.upper())
    for form in ("jpeg", "png", "webp"):
        assert samples[form][endings.get(form, "png")] == encoded(form=form), "the bytes stay as they are"


@pytest.mark.parametrize(
    ("form", "endings"), [(None, ("jpg", "png")), ("jpg", ("jpg", "jpg")), ("png", ("png", "png"))]
)
def test_images_are_made_smaller_but_never_larger(tmp_path, form, endings):
    folder = tmp_path / "images"
    folder.mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6
    for ending, form_in in (("jpg", "jpeg"), ("png", "png")):
        (folder / f"wide.{ending}").write_bytes(encoded(400, 100, form=form_in))
        (folder / f"small.{ending}").write_bytes(encoded(30, 20, form=form_in))
    (folder / "turned.jpg").write_bytes(encoded(400, 100, form="jpeg", exif=exif))
    path = table(tmp_path / "c.csv", [(file.name, "x") for file in folder.iterdir()])
    pack(tmp_path / "out", images=folder, captions=path, side=24, image_format=form)
    samples = contents(tmp_path / "out")
    for ending, stored in zip(("jpg", "png"), endings, strict=True):
        sizes = {"wide": (96, 24), "small": (30, 20)} | ({"turned": (24, 96)} if ending == "jpg" else {})
        for name, size in sizes.items():
            files = samples[f"{name}_{ending}"]
            record = json.loads(files["json"])
            assert Image.open(io.BytesIO(files[stored])).size == size == (record["width"], record["height"])
    if endings[0] == "jpg":
        assert samples["small_jpg"]["jpg"] == (folder / "small.jpg").read_bytes()


def test_a_truncated_jpeg_is_found_even_where_it_is_decoded_at_a_smaller_scale(tmp_path):
    folder = images(tmp_path / "images", 1)
    (folder / "cut.jpg").write_bytes(encoded(512, 512, form="jpeg")[:-60])
    path = table(tmp_path / "c.csv", [("cut.jpg", "x"), ("000.png", "x")])
    assert reasons(pack(tmp_path / "out", images=folder, captions=path, side=16)) == {"unreadable image": 1}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "neither images nor captions were given; type images=FOLDER"),
        ({"images": "nowhere"}, "images=.*nowhere is no folder"),
        ({"captions": "c.csv", "images": "nowhere"}, "images=.*nowhere is no folder"),
        ({"captions": "none.csv"}, "no captions at '.*none.csv'.*or type captions=none for images without captions"),
        ({"captions": "c.txt"}, r"c.txt is none of .csv, .tsv, .jsonl, .parquet"),
        ({"captions": "latin.csv"}, "latin.csv cannot be read after line 0: .*save it as UTF-8 csv"),
        ({"captions": "empty.csv"}, "there is nothing to pack: .* holds no image, and no table names one"),
        ({"images": "."}, r"none of 0 rows can be used"),
        ({"captions": "c.csv"}, r"none of 1 rows can be used \(1 missing file: a.png\)"),
        ({"captions": "c.csv", "side": 0}, "side=0 cannot be; give a whole number, at least 1, or null"),
        ({"captions": "c.csv", "side": "big"}, "side=big cannot be"),
        (
            {"captions": "c.csv", "image_format": "gif", "side": 8},
            "image_format=gif cannot be; give one of jpg, png, null",
        ),
        ({"captions": "c.csv", "image_format": "png"}, "image_format=png cannot be; give a side as well"),
        ({"captions": "c.csv", "val_fraction": 1}, "val_fraction=1 cannot be"),
        ({"captions": "c.csv", "workers": 0}, "workers=0 cannot be"),
        ({"captions": "c.csv", "samples_per_shard": 0.5}, "samples_per_shard=0.5 cannot be"),
        ({"captions": "c.csv", "max_broken": 5}, "max_broken=5 cannot be"),
    ],
)
def test_mistakes_are_said_in_words(tmp_path, options, message):
    table(tmp_path / "c.csv", [("a.png", "x")])
    (tmp_path / "c.txt").write_text("a.png x")
    (tmp_path / "empty.csv").write_text("file,caption\n")
    (tmp_path / "latin.csv").write_bytes("file,caption\na.png,häßlich\n".encode("latin-1"))
    places = {name: tmp_path / value for name, value in options.items() if name in ("images", "captions")}
    with pytest.raises((ValueError, OSError), match=message):
        pack(tmp_path / "out", **{**options, **places})
    assert not list(tmp_path.glob("out/*.tar"))


def test_two_packings_do_not_share_a_folder(tmp_path):
    path = captioned(tmp_path / "images", 2)
    (tmp_path / "out").mkdir()
    with (
        FileLock(tmp_path / "out" / ".lock"),
        pytest.raises(ValueError, match="another process is writing into .*out; wait"),
    ):
        pack(tmp_path / "out", images=tmp_path / "images", captions=path)


@pytest.mark.e2e
def test_the_command_packs_and_says_what_to_type_next(tmp_path):
    path = captioned(tmp_path / "it's {1,2} = images", 3)
    places = [f"images={path.parent}/it's {{1,2}} = images", f"captions={path}", f"out={tmp_path}/o"]
    text = forked("-m", "ldm.data.pack", *places, "val_fraction=0")
    assert "3 train samples in 1 shard, " in text
    assert f"data.train='{tmp_path}/o/train-*.tar' data.val=..." in text


@pytest.mark.e2e
def test_help_lists_every_option():
    text = forked("-m", "ldm.data.pack", "--help")
    assert "python -m ldm.data.pack images=FOLDER captions=captions.csv out=DIR" in text
    assert all(
        f"\n  {option}=" in text for option in ("images", "captions", "out", "side", "val_fraction", "max_broken")
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["out=x", "worker=2"], "error: there is no option worker; did you mean workers?"),
        (["images=x"], "error: the option out has no value; type out=VALUE, or --help"),
        (["--verbose"], "error: '--verbose' is not of the form option=value; --help shows all options"),
        (["out=x", "side=1,2"], "error: side=1,2 has several values: for a run with each of them add -m; "),
        (["out=x", "images=/nowhere"], "error: images=/nowhere is no folder"),
    ],
)
def test_mistyped_commands_end_with_a_message(arguments, message, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["pack", *arguments])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("ldm.data.pack", run_name="__main__")
    assert ended.value.code == 1
    assert message in capsys.readouterr().err


@pytest.mark.e2e
def test_a_mistyped_option_ends_the_program_without_a_traceback():
    text = forked("-m", "ldm.data.pack", "out=x", "worker=2", ok=False)
    assert text == "error: there is no option worker; did you mean workers?\n"
