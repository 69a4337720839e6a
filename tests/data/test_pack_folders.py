"""Packing folders as people have them: nothing in them disappears uncounted, and nothing of theirs is overwritten."""

import json
import os
import re
import shlex
import shutil

import pytest
from PIL import Image

from ldm.conditioner.class_names import ClassNames
from ldm.config import compose
from ldm.data.datamodule import CaptionedImages
from ldm.data.pack.packer import Packer
from ldm.data.pack.plan import make_plan
from ldm.data.pack.row import Row
from ldm.data.shards.names import name_shards
from tests.data.packing import captioned, contents, encoded, images, pack, reasons, table


def odd_folder(folder):
    """Files of many kinds; returns how many of them are neither hidden nor a sidecar of an image."""
    folder.mkdir(parents=True)
    forms = {"a.jfif": "jpeg", "b.JPE": "jpeg", "c.tif": "tiff", "d.TIFF": "tiff", "e.JPG": "jpeg", "f.dib": "bmp"}
    for name, form in forms.items():
        (folder / name).write_bytes(encoded(form=form))
        (folder / name).with_suffix(".txt").write_text(name)
    os.rename(folder / "e.txt", folder / "e.TXT")
    for name in ("g.heic", "h.nef", "i.svg"):
        (folder / name).write_bytes(encoded(form="tiff"))
        (folder / name).with_suffix(".txt").write_text(name)
    (folder / "j.png").write_bytes(b"cut")
    (folder / "j.txt").write_text("j")
    (folder / "k.png").write_bytes(encoded())
    for name in ("l.mp4", "l.xmp", "Thumbs.db", "LICENSE", "notes.txt", "rest.json", "table.csv", "long.1234567890"):
        (folder / name).write_bytes(b"no image")
    (folder / "away.jpg").symlink_to(folder / "nowhere")
    (folder / "away.txt").write_text("away")
    os.mkfifo(folder / "m.txt")
    (folder / "m.png").write_bytes(encoded())
    (folder / ".hidden.png").write_bytes(encoded())
    (folder / ".hidden").mkdir()
    (folder / ".hidden" / "n.png").write_bytes(encoded())
    sidecars = len(forms) + 3 + 3
    return sum(not path.name.startswith(".") for path in folder.iterdir()) - sidecars


def test_whatever_is_in_a_folder_is_packed_or_counted(tmp_path):
    present = odd_folder(tmp_path / "images")
    summary = pack(tmp_path / "out", images=tmp_path / "images")
    samples = contents(tmp_path / "out")
    assert {key: set(files) - {"shard", "json"} for key, files in samples.items()} == {
        **{key: {"jpg", "txt"} for key in ("a_jfif", "b_JPE", "e_JPG")},
        **{key: {"png", "txt"} for key in ("c_tif", "d_TIFF", "f_dib")},
    }
    assert reasons(summary) == {
        "image format that is not read": 3,
        "unreadable image": 1,
        "no caption": 1,
        "missing file": 1,
        "unreadable sidecar": 1,
    }
    assert {kind: entry["count"] for kind, entry in summary.others.skipped.items()} == {
        **{
            ".mp4": 1,
            ".xmp": 1,
            ".db": 1,
            ".csv": 1,
            "no usual ending": 2,
            ".txt of no image": 1,
            ".json of no image": 1,
        }
    }
    assert len(samples) + summary.skipped.broken + summary.others.broken == present
    assert len(samples) + summary.skipped.broken == summary.rows
    stored = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert stored["other_files"] == summary.others.skipped
    assert stored["skipped"]["image format that is not read"]["first"][0] == "g.heic: convert it to jpg or png"
    assert "8 other files, which are no rows" in summary.table()


def test_what_is_no_image_is_not_broken(tmp_path):
    folder = images(tmp_path / "images", 2)
    for name in ("000.txt", "001.txt"):
        (folder / name).write_text("x")
    for number in range(20):
        (folder / f"{number}.mp4").write_bytes(b"")
    assert pack(tmp_path / "out", images=folder, max_broken=0).splits["train"].samples == 2
    (folder / "a.heic").write_bytes(b"")
    with pytest.raises(ValueError, match=r"1 of 3 rows cannot be used \(1 image format that is not read: a.heic"):
        pack(tmp_path / "again", images=folder, max_broken=0.3)
    (tmp_path / "films").mkdir()
    (tmp_path / "films" / "x.mp4").write_bytes(b"")
    with pytest.raises(ValueError, match=r"none of 0 rows.*beside them are other files \(1 .mp4: x.mp4\)"):
        pack(tmp_path / "none", images=tmp_path / "films")


def test_a_folder_that_cannot_be_read_is_counted(tmp_path, monkeypatch):
    folder = images(tmp_path / "images", 1)
    (folder / "000.txt").write_text("x")
    (folder / "locked").mkdir()
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    summary = pack(tmp_path / "out", images=folder)
    assert summary.skipped.skipped == {"unreadable folder": {"count": 1, "first": ["locked: Permission denied"]}}


def test_the_files_layout_of_img2dataset(tmp_path):
    folder = tmp_path / "laion" / "00000"
    images(folder, 3)
    record = {
        "caption": "from json",
        "url": "https://x/a.jpg",
        "similarity": 0.3,
        "width": 5,
        "exif": "{}",
        "nan": float("nan"),
    }
    for number in range(3):
        (folder / f"{number:03d}.json").write_text(json.dumps({**record, "key": f"{number:09d}"}))
    (folder / "000.txt").write_text("from txt")
    (folder / "001.txt").write_text(" ")
    (tmp_path / "laion" / "00000_stats.json").write_text("{}")
    (tmp_path / "laion" / "00000.parquet").write_bytes(b"PAR1")
    summary = pack(tmp_path / "out", images=tmp_path / "laion")
    samples = contents(tmp_path / "out")
    assert {key: files["txt"].decode() for key, files in samples.items()} == {
        "00000/000_png": "from txt",
        "00000/001_png": "from json",
        "00000/002_png": "from json",
    }
    same = {"url": "https://x/a.jpg", "similarity": 0.3, "exif": "{}", "nan": None, "width": 12, "height": 8}
    for number in range(3):
        assert json.loads(samples[f"00000/00{number}_png"]["json"]) == {
            **same,
            "caption": "from json",
            "key": f"{number:09d}",
            "source": f"00000/00{number}.png",
        }
    assert {kind: entry["count"] for kind, entry in summary.others.skipped.items()} == {
        ".parquet": 1,
        ".json of no image": 1,
    }


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{broken", "unreadable sidecar"),
        ("[1]", "unreadable sidecar"),
        ('{"title": "a"}', None),
        ('{"Caption": ["a", " ", "b"]}', None),
        ('{"note": "a"}', "no caption"),
        ('{"caption": null}', "no caption"),
        ('{"caption": "a", "deep": ' + "[" * 60 + "]" * 60 + "}", "unreadable row"),
    ],
)
def test_json_sidecars(tmp_path, text, reason):
    folder = images(tmp_path / "images", 2)
    (folder / "000.txt").write_text("x")
    (folder / "001.json").write_text(text)
    summary = pack(tmp_path / "out", images=folder)
    assert reasons(summary) == ({} if reason is None else {reason: 1})
    if reason is None:
        assert contents(tmp_path / "out")["001_png"]["txt"] == b"a"


def test_a_column_of_json_sidecars_can_be_chosen(tmp_path):
    folder = images(tmp_path / "images", 1)
    (folder / "000.json").write_text('{"caption": "bad", "blip": "good"}')
    pack(tmp_path / "out", images=folder, caption_column="blip")
    assert contents(tmp_path / "out")["000_png"]["txt"] == b"good"
    with pytest.raises(ValueError, match="image_column=x is of a table; give captions=TABLE as well"):
        Packer(tmp_path / "x", images=folder, image_column="x")


@pytest.mark.parametrize("name", ["my data (1)", "[2023]", "{a,b}", "{", "мои данные", "it's 100% *?$HOME", "a\\b"])
def test_the_next_command_finds_the_shards_whatever_the_folder_is_called(tmp_path, name):
    images(tmp_path / name / "images", 8)
    rows = [(f"{number:03d}.png", "x") for number in range(8)]
    table(tmp_path / name / "c.csv", rows[:4])
    table(tmp_path / name / "d.csv", rows[4:])
    for other in ("2", "0", "a", "b", "x"):  # what an unquoted pattern would name
        (tmp_path / other / "out").mkdir(parents=True)
        (tmp_path / other / "out" / "train-000000.tar").write_bytes(b"")
    folder = tmp_path / name
    options = {"out": folder / "out", "images": folder / "images", "captions": folder / "[cd].csv", "val_fraction": 0.5}
    config = compose("pack", [f"{option}={value}" for option, value in options.items()])
    assert all(str(config[option]) == str(value) for option, value in options.items())
    summary = pack(**options)
    assert summary.rows == 8
    command, script, *options = shlex.split(summary.next_command())
    assert (command, script) == ("python", "train.py")
    data = compose("train", options).data
    for split in ("train", "val"):
        assert name_shards(data[split]) == [str(folder / "out" / f"{split}-000000.tar")]


def test_captions_in_several_folders_need_images(tmp_path):
    for name in "ab":
        images(tmp_path / name, 1)
        table(tmp_path / name / "c.csv", [("000.png", name)])
    with pytest.raises(ValueError, match=r"captions=.* are in 2 folders; say with images=FOLDER where images are"):
        Packer(tmp_path / "out", captions=tmp_path / "*" / "c.csv")
    assert Packer(tmp_path / "out", captions=tmp_path / "[a]" / "c.csv").job.images == tmp_path / "a"


def test_a_folder_with_somebodys_files_is_refused_before_anything_is_read(tmp_path):
    folder = images(tmp_path / "images", 2)
    before = sorted(folder.iterdir())
    for out in (folder, tmp_path):
        with pytest.raises(ValueError, match=r"out=.* holds what was not written by this program \("):
            Packer(out, images=folder)
    (tmp_path / "own").mkdir()
    for name in ("train-000000.tar", "summary.json", "pack.json"):
        (tmp_path / "own" / name).write_text("[]")
        with pytest.raises(ValueError, match=rf"\({name}\); nothing was changed"):
            Packer(tmp_path / "own", images=folder)
        (tmp_path / "own" / name).unlink()
    assert sorted(folder.iterdir()) == before


def test_shards_that_lie_inside_the_folder_of_images_are_not_among_them(tmp_path):
    folder = images(tmp_path / "images", 3)
    for number in range(3):
        (folder / f"{number:03d}.txt").write_text("x")
    first = pack(folder / "shards", images=folder)
    again = pack(folder / "shards", images=folder)
    assert first == again
    assert first.rows == 3
    assert not first.others.broken


def test_a_packing_goes_on_where_the_images_have_moved_but_not_with_others(tmp_path):
    path = captioned(tmp_path / "images", 4)
    pack(tmp_path / "out", images=tmp_path / "images", captions=path, samples_per_shard=2)
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    (tmp_path / "moved").mkdir()
    shutil.move(tmp_path / "images", tmp_path / "moved" / "here")
    shutil.move(path, tmp_path / "moved" / "other.csv")
    options = {
        "images": tmp_path / "moved" / "here",
        "captions": tmp_path / "moved" / "other.csv",
        "samples_per_shard": 2,
    }
    pack(tmp_path / "out", **options)
    assert {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()} == before
    for file in (tmp_path / "moved" / "here").iterdir():
        Image.new("RGB", (3, 3)).save(file)
    with pytest.raises(ValueError, match=r"begun with something else \(images: \w{16} -> \w{16}\)"):
        pack(tmp_path / "out", **options)


@pytest.mark.parametrize(("given", "split"), [(0.0001, "validation"), (0.9999, "training")])
def test_a_fraction_that_leaves_a_split_empty_is_said_with_one_that_does_not(tmp_path, given, split):
    options = {"images": tmp_path / "images", "captions": captioned(tmp_path / "images", 20)}
    with pytest.raises(ValueError, match=f"leaves none of 20 images for {split}; give val_fraction=") as error:
        pack(tmp_path / "out", val_fraction=given, **options)
    assert not list((tmp_path / "out").glob("*.[tj]*")), "neither shards nor the plan were written"
    advised = float(re.search(r"give val_fraction=([\d.]+),", str(error.value)).group(1))
    summary = pack(tmp_path / "out", val_fraction=advised, **options)
    assert all(0 < tally.samples < 20 for tally in summary.splits.values())
    assert "..." not in summary.next_command()
    only = table(tmp_path / "one.csv", [("000.png", "no fraction serves")])
    assert pack(tmp_path / "one", images=tmp_path / "images", captions=only, val_fraction=0.0001).rows == 1


@pytest.mark.parametrize(("count", "least", "most"), [(1, 0, 0), (2, 0, 1), (20, 1, 8), (240, 16, 48), (3000, 16, 60)])
def test_without_a_fraction_enough_are_for_validation(tmp_path, count, least, most):
    rows = ((f"{number}", Row(f"{number}.jpg", ["x"], {})) for number in range(count))
    options = {"val_max": None, "samples_per_shard": 5000}
    plan = make_plan(rows, tmp_path / "rows", val_fraction=None, **options)
    found = {shard.name.partition("-")[0]: shard.rows for shard in plan.shards}
    assert least <= found.get("val", 0) <= most
    assert found["train"] + found.get("val", 0) == count


def test_the_share_of_validation_has_a_limit(tmp_path):
    path = captioned(tmp_path / "images", 60)
    options = {"images": tmp_path / "images", "captions": path, "val_fraction": 0.5, "samples_per_shard": 4}
    keys = {}
    for limit in (None, 5, 6, 60):
        out = tmp_path / str(limit)
        summary = pack(out, val_max=limit, **options)
        keys[limit] = {key for key, files in contents(out).items() if files["shard"].startswith("val")}
        assert len(contents(out)) == 60
        assert len(keys[limit]) == summary.splits["val"].samples
    assert len(keys[5]) == 5
    assert len(keys[6]) == 6
    assert keys[5] < keys[6] < keys[None] == keys[60], "those with the smallest digests"
    assert Packer(tmp_path / "default", images=tmp_path / "images", captions=path).val_max == 10_000


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("out", ["2023"]),
        ("images", 2023),
        ("captions", ""),
        ("val_max", 0),
        ("val_fraction", float("nan")),
        ("samples_per_shard", True),
        ("workers", 1.5),
        ("caption_column", ["a"]),
    ],
)
def test_impossible_values_are_said_before_anything_is_read_or_written(tmp_path, option, value):
    options = {"out": tmp_path / "out", "images": tmp_path / "nowhere", option: value}
    with pytest.raises(ValueError, match=rf"^{option}=.* cannot be; give "):
        Packer(**options)
    assert not any(tmp_path.iterdir())


def test_images_without_captions_are_packed_where_that_is_said(tmp_path):
    """The .txt and .json beside them are counted, but not read; maps go with their image, and are no images without it."""
    folder = images(tmp_path / "images", 4)
    (folder / "000.txt").write_text("not read")
    (folder / "001.json").write_text("{")
    (folder / "002.mask.png").write_bytes(encoded())
    (folder / "002.mask.txt").write_text("not read")
    (folder / "lone.mask.png").write_bytes(encoded())
    (folder / "cut.png").write_bytes(encoded()[:40])
    (folder / "raw.nef").write_bytes(encoded())
    (folder / "notes.md").write_text("x")
    summary = pack(tmp_path / "out", images=folder, captions="none", val_fraction=0.3)
    samples = contents(tmp_path / "out")
    assert {key: set(files) - {"shard"} for key, files in samples.items()} == {
        **{f"{number:03d}_png": {"png", "json"} for number in (0, 1, 3)},
        "002_png": {"png", "json", "mask.png"},
    }
    assert json.loads(samples["000_png"]["json"]) == {"source": "000.png", "width": 12, "height": 8}
    assert reasons(summary) == {"no image": 1, "image format that is not read": 1, "unreadable image": 1}
    assert {kind: entry["count"] for kind, entry in summary.others.skipped.items()} == {
        ".txt that is not read": 2,
        ".json that is not read": 1,
        ".md": 1,
    }
    assert summary.rows == 7
    assert "next: python train.py experiment=lsun_churches256 data.train=" in summary.table()


def test_whoever_has_no_captions_is_shown_how_to_pack(tmp_path):
    folder = images(tmp_path / "images", 3)
    with pytest.raises(
        ValueError, match=r"3 no caption: 000.png: no 000.txt.*captions=none packs images that have none"
    ):
        pack(tmp_path / "out", images=folder)
    (folder / "000.txt").write_text("a caption")
    with pytest.raises(ValueError, match=r"2 of 3 rows cannot be used.*captions=none packs images that have none"):
        pack(tmp_path / "some", images=folder, max_broken=0.1)
    with pytest.raises(ValueError, match=r"was begun with something else \(captions: 3 rows"):
        pack(tmp_path / "some", images=folder, captions="none")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "captions=none needs images=FOLDER"),
        ({"caption_column": "text"}, "caption_column=text cannot be with captions=none"),
        ({"image_column": "file"}, "image_column=file is of a table"),
    ],
)
def test_what_goes_with_captions_alone_is_refused(tmp_path, options, message):
    given = {"images": images(tmp_path / "images", 1), **options} if options else {}
    with pytest.raises(ValueError, match=message):
        pack(tmp_path / "out", captions="none", **given)
    assert not (tmp_path / "out").exists()


def class_folders(folder, **classes):
    """Write images into a folder for each class, every second one into a folder of that."""
    for name, count in classes.items():
        images(folder / name, count)
        (folder / name / "more").mkdir()
        for number in range(0, count, 2):
            os.rename(folder / name / f"{number:03d}.png", folder / name / "more" / f"{number:03d}.png")
    return folder


@pytest.mark.parametrize("captions", [None, "none"])
def test_folders_are_classes(tmp_path, captions):
    folder = class_folders(tmp_path / "photos", dog=3, Cat=2, bear=4)
    (folder / "dog" / "001.txt").write_text("a dog")
    (folder / "empty").mkdir()
    (folder / ".hidden").mkdir()
    images(folder / ".hidden", 1)
    out = folder / "shards"
    summary = pack(out, images=folder, labels="folders", captions=captions)
    samples = contents(out)
    names = (out / "classes.txt").read_text().splitlines()
    assert names == list(summary.classes) == ["Cat", "bear", "dog"], "in the order of torchvision's ImageFolder"
    records = {key: json.loads(files["json"]) for key, files in samples.items()}
    assert len(records) == 9
    assert {key: names[record["label"]] for key, record in records.items()} == {
        key: key.split("/")[0] for key in records
    }
    assert [key for key, files in samples.items() if "txt" in files] == (["dog/001_png"] if captions is None else [])
    text = summary.table()
    assert "3 classes, numbered as in " in text
    assert summary.next_command().endswith(f"conditioner.num_classes=3 conditioner.names={out / 'classes.txt'}")


def test_labels_of_folders_are_what_a_model_is_conditioned_on(tmp_path):
    folder = class_folders(tmp_path / "photos", a=10, b=10)
    summary = pack(tmp_path / "out", images=folder, labels="folders", val_fraction=0.3)
    typed = shlex.split(summary.next_command())
    config = compose(
        "train", [*typed[typed.index(next(word for word in typed if "experiment=" in word)) :], "data.size=8"]
    )
    data = CaptionedImages(
        size=8, cache=tmp_path, train=config.data.train, val=config.data.val, fields=["label"], workers=0
    )
    found = {key: int(fields["label"]) for key, fields in data.samples(["label"], 100)}
    assert {key.split("/")[0]: number for key, number in found.items()} == {"a": 0, "b": 1}
    names = ClassNames(config.conditioner.names, field="label", count=config.conditioner.num_classes, exact=True)
    names.load()
    assert [names.number(name) for name in "ab"] == [0, 1]


def test_an_image_of_no_class_or_of_two_is_skipped(tmp_path):
    folder = class_folders(tmp_path / "photos", a=3, b=3)
    images(folder, 1)
    (folder / "a" / "001.cls").write_text("1")
    (folder / "b" / "001.json").write_text('{"label": 0}')
    summary = pack(tmp_path / "out", images=folder, labels="folders")
    assert reasons(summary) == {"in no folder of a class": 1, "two labels": 2}
    assert summary.splits["train"].samples == 4


def test_folders_that_are_no_classes_are_refused_before_anything_is_written(tmp_path):
    alone = class_folders(tmp_path / "alone", cat=2)
    parts = class_folders(tmp_path / "parts", train=2, Val=2)
    lines = class_folders(tmp_path / "lines", **{"a\nb": 2, "c": 2})
    table(tmp_path / "c.csv", [("a.png", "x")])
    for options, message in (
        ({"images": images(tmp_path / "flat", 2)}, r"needs a folder for each class .* and it has images in none"),
        ({"images": alone}, r"has images in one, 'cat'; give the folder that holds those of the classes"),
        (
            {"images": parts},
            r"are Val, train: parts of a data set, and no classes; pack each by itself, like images=.*Val",
        ),
        ({"images": lines}, r"'a\\nb' in images=.* can be no name of a class"),
        ({"images": alone, "captions": tmp_path / "c.csv"}, r"a table names classes in a column called label"),
        ({"captions": tmp_path / "c.csv"}, r"labels=folders is for images=FOLDER without a table"),
    ):
        with pytest.raises(ValueError, match=message):
            pack(tmp_path / "out", labels="folders", **options)
    with pytest.raises(ValueError, match="labels=names cannot be; give one of folders, null"):
        pack(tmp_path / "out", labels="names", images=alone)
    assert not (tmp_path / "out").exists()


def test_a_packing_goes_on_with_the_same_classes_alone(tmp_path):
    folder = class_folders(tmp_path / "photos", a=3, b=3)
    pack(tmp_path / "out", images=folder, labels="folders")
    before = (tmp_path / "out" / "classes.txt").read_text()
    with pytest.raises(ValueError, match="begun with something else .*labels: folders -> None"):
        pack(tmp_path / "out", images=folder, captions="none")
    os.rename(folder / "b", folder / "0")
    with pytest.raises(ValueError, match="begun with something else"):
        pack(tmp_path / "out", images=folder, labels="folders")
    assert (tmp_path / "out" / "classes.txt").read_text() == before
    with pytest.raises(ValueError, match=r"no caption.*labels=folders those in a folder for each class"):
        pack(tmp_path / "plain", images=folder, max_broken=0.1)


def labels_of(out):
    """Return the number of each class that a packing has images of."""
    return {key.split("/")[0]: json.loads(files["json"])["label"] for key, files in contents(out).items()}


def test_a_second_folder_has_the_numbers_of_the_first(tmp_path):
    train = class_folders(tmp_path / "train", ant=2, bee=2, cow=2)
    some = class_folders(tmp_path / "some", cow=2, bee=1)
    (some / "ant").mkdir()
    one = class_folders(tmp_path / "one", cow=2)
    first = pack(tmp_path / "first", images=train, labels="folders")
    file = tmp_path / "first" / "classes.txt"
    assert f"classes={file} gives other folders the same numbers" in first.table()
    for name, folder in (("second", some), ("third", one)):
        summary = pack(tmp_path / name, images=folder, labels="folders", classes=file)
        found = labels_of(tmp_path / name)
        assert found.keys() < labels_of(tmp_path / "first").keys()
        assert found.items() <= labels_of(tmp_path / "first").items()
        assert (tmp_path / name / "classes.txt").read_bytes() == file.read_bytes()
        assert "conditioner.num_classes=3" in summary.next_command()
    assert labels_of(tmp_path / "second") == {"bee": 1, "cow": 2}


def test_numbers_are_those_of_the_lines_however_the_file_is_written(tmp_path):
    folder = class_folders(tmp_path / "photos", val=2, train=2)
    (tmp_path / "names.txt").write_bytes("\N{BYTE ORDER MARK}train\r\nbus\r\nval\r\n\r\n".encode())
    summary = pack(tmp_path / "out", images=folder, labels="folders", classes=tmp_path / "names.txt")
    assert labels_of(tmp_path / "out") == {"train": 0, "val": 2}, "they are classes where the file says so"
    assert summary.classes == ("train", "bus", "val")


def test_a_file_of_classes_that_cannot_serve_is_refused_before_anything_is_written(tmp_path):
    folder = class_folders(tmp_path / "photos", cat=2, dog=2, **{"sea lion": 1})
    file = tmp_path / "names.txt"
    for text, message in (
        (
            "cats\ndog\n",
            r"names.txt does not name 'cat', 'sea lion', in images=.* have images \('cats' is like 'cat'\)",
        ),
        ("cat\n\ndog\n", r"line 2 of classes=.* is empty"),
        ("cat\ndog\ncat\n", r"lines 1 and 3 of classes=.* are both 'cat'"),
        ("\n \n", r"names no class"),
        (b"\xff\xfe", r"cannot be read as a text file"),
        (None, r"cannot be read as a text file .*No such file"),
    ):
        file.unlink(missing_ok=True)
        if text is not None:
            file.write_bytes(text if isinstance(text, bytes) else text.encode())
        with pytest.raises(ValueError, match=message):
            pack(tmp_path / "out", images=folder, labels="folders", classes=file)
    file.write_text("cat\n")
    with pytest.raises(ValueError, match=r"classes=.* numbers the folders of labels=folders; give that as well"):
        pack(tmp_path / "out", images=folder, captions="none", classes=file)
    with pytest.raises(ValueError, match=r"has images in none"):
        pack(tmp_path / "out", images=images(tmp_path / "flat", 2), labels="folders", classes=file)
    assert not (tmp_path / "out").exists()


def test_a_packing_goes_on_with_the_same_file_of_classes_alone(tmp_path):
    folder = class_folders(tmp_path / "photos", a=3, b=3)
    file = tmp_path / "names.txt"
    file.write_text("a\nb\nc\n")
    pack(tmp_path / "out", images=folder, labels="folders", classes=file)
    pack(tmp_path / "out", images=folder, labels="folders", classes=file)
    for text in ("a\nb\nd\n", "a\nb\n"):
        file.write_text(text)
        with pytest.raises(ValueError, match="begun with something else .*classes: 3 names, .* -> "):
            pack(tmp_path / "out", images=folder, labels="folders", classes=file)
    with pytest.raises(ValueError, match="begun with something else .*classes: 3 names, .* -> None"):
        pack(tmp_path / "out", images=folder, labels="folders")
    assert (tmp_path / "out" / "classes.txt").read_text() == "a\nb\nc\n"
