"""Packing images with other files of their samples beside them: label maps, depth, masks, arrays."""

import io
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from ldm.data.order.shuffle import SampleRef
from ldm.data.pack.parts import find_parts
from ldm.data.shards.grouping import Grouping
from ldm.data.shards.members import ByteRange, Member
from tests.data.packing import contents, encoded, images, pack, reasons, table
from tests.data.small_shards import captioned

NAMES = ["segmentation", "depth", "mask", "loss_weight", "neighbors", "image_embedding", "label"]


def png(array):
    data = io.BytesIO()
    Image.fromarray(array).save(data, format="png")
    return data.getvalue()


def npy(*shape):
    data = io.BytesIO()
    np.save(data, np.random.default_rng(0).standard_normal(shape))
    return data.getvalue()


def parts(width=12, height=8):
    levels = np.arange(width * height, dtype=np.uint8).reshape(height, width)
    return {
        "seg.png": png(levels % 5),
        "depth.png": png(levels.astype(np.uint16) * 500),
        "mask.png": png(levels * 2),
        "weight.png": png(levels),
        "neighbors.npy": npy(4, 3),
        "embedding.npy": npy(6),
        "cls": b"3",
    }


def write(folder, stem, files):
    folder.mkdir(parents=True, exist_ok=True)
    for ending, data in files.items():
        (folder / f"{stem}.{ending}").write_bytes(data)


def odd_folder(folder):
    """Images with parts, parts without images, and what looks like a part; returns the number of files that are not hidden."""
    write(folder, "a", {"png": encoded(), "txt": b"all", **parts()})
    write(folder, "b", {"png": encoded(), "seg.png": parts()["seg.png"]})  # no caption
    write(folder, "c", {"png": encoded(), "cls": b"7", "SEG.PNG": parts()["seg.png"]})
    write(folder, "d.e", {"jpg": encoded(form="jpeg"), "depth.png": parts()["depth.png"]})
    write(folder, "f", {"png": encoded(), "txt": b"f", "seg.png": encoded(), "seg.txt": b"an image of its own"})
    write(folder, "g", {"seg.png": parts()["seg.png"], "neighbors.npy": npy(1, 2), "cls": b"1"})  # no image g
    write(folder, "h", {"png": encoded(), "txt": b"h", "mask.png": parts()["mask.png"], "mask.mask.png": b"x"})
    write(folder, "i", {"png": encoded(), "json": json.dumps({"label": 4}).encode()})
    write(folder, "j", {"png": encoded(), "json": b"{}"})  # says nothing
    write(folder, "k", {"png": encoded(), "txt": b"k", "seg.png": b"broken"})
    write(folder, "l", {"png": encoded(), "txt": b"l", "depth.png": parts(8, 8)["depth.png"]})
    write(folder, "m", {"png": encoded(), "txt": b"m", "neighbors.npy": b"broken"})
    write(folder, "n", {"png": encoded(), "txt": b"n", "cls": b"cat"})
    write(folder, "sub/o", {})
    write(folder / "sub", "o", {"png": encoded(), "txt": b"o", "weight.png": parts()["weight.png"]})
    write(folder, ".hidden", {"png": encoded(), "seg.png": parts()["seg.png"]})
    return sum(path.is_file() and not path.name.startswith(".") for path in folder.rglob("*"))


def test_whatever_is_in_a_folder_is_read_or_counted(tmp_path):
    present = odd_folder(tmp_path / "images")
    summary = pack(tmp_path / "out", images=tmp_path / "images")
    samples = {
        key: set(files) - {"shard", "json", "txt", "png", "jpg"} for key, files in contents(tmp_path / "out").items()
    }
    assert samples == {
        "a_png": set(parts()),
        "b_png": {"seg.png"},
        "c_png": {"cls", "seg.png"},
        "d_e_jpg": {"depth.png"},
        "f_png": set(),
        "f_seg_png": set(),
        "h_png": {"mask.png"},
        "i_png": set(),
        "sub/o_png": {"weight.png"},
    }
    assert reasons(summary) == {
        "no caption": 3,  # g.seg.png, h.mask.mask.png, and j
        "unreadable .seg.png": 1,
        ".depth.png of another shape than the image": 1,
        "unreadable .neighbors.npy": 1,
        "unreadable .cls": 1,
    }
    assert {kind: entry["count"] for kind, entry in summary.others.skipped.items()} == {".npy": 1, ".cls": 1}
    stored = sum(len(files) for files in samples.values())
    sidecars = {"a": 1, "f": 2, "h": 1, "i": 1, "o": 1, "j": 1, "k": 2, "l": 2, "m": 2, "n": 2}
    assert len(samples) + stored + summary.skipped.broken + summary.others.broken + sum(sidecars.values()) == present
    assert contents(tmp_path / "out")["a_png"]["seg.png"] == parts()["seg.png"], "stored as they are"
    assert "txt" not in contents(tmp_path / "out")["b_png"]


BOXES = {
    "pixels": {"label": 1, "box": [2, 5, 30, 33]},
    "a word": {"label": "cat", "box": [0, 0, 0.5, 0.5]},
    "width and height": {"label": 1, "box": [0.5, 0.5, 0.25, 0.25]},
    "no object": [1, 0, 0, 1, 1],
}


@pytest.mark.parametrize("entry", BOXES.values(), ids=BOXES)
def test_boxes_that_cannot_be_trained_with_are_found_when_they_are_packed(tmp_path, entry):
    right = {"label": 1, "box": [0, 0, 0.5, 1]}
    for stem, record in {
        "a": {"boxes": [right]},
        "b": {"boxes": [right, entry]},
        "c": {"caption": "c", "boxes": [entry]},
    }.items():
        write(tmp_path / "images", stem, {"png": encoded(), "json": json.dumps(record).encode()})
    summary = pack(tmp_path / "out", images=tmp_path / "images")
    assert {*contents(tmp_path / "out")} == {"a_png", "c_png"}, "one with a caption serves without boxes, too"
    assert reasons(summary) == {"unreadable boxes": 1}
    (said,) = summary.skipped.skipped["unreadable boxes"]["first"]
    assert f"got {entry!r}" in said


@pytest.mark.parametrize("ending", ["seg.png", "depth.png", "weight.png"])
def test_maps_of_several_channels_are_found_when_they_are_packed(tmp_path, ending):
    write(tmp_path / "images", "a", {"png": encoded(), "txt": b"a", ending: encoded()})
    write(tmp_path / "images", "b", {"png": encoded(), "txt": b"b", "mask.png": encoded()})
    summary = pack(tmp_path / "out", images=tmp_path / "images")
    assert [*contents(tmp_path / "out")] == ["b_png"], "a mask may have several"
    assert "a.png: its pixels are RGB, not of one channel" in str(summary.skipped.skipped[f"unreadable .{ending}"])


def test_packing_imports_no_torch():
    """Each worker would need as much memory as torch takes."""
    code = "import sys, ldm.data.pack.workers; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_what_is_packed_is_what_is_read(tmp_path):
    for number in range(3):
        write(tmp_path / "images", f"{number}", {"png": encoded(), **parts()})
    pack(tmp_path / "out", images=tmp_path / "images")
    pattern = f"{tmp_path}/out/train-*.tar"
    data = captioned(tmp_path, train=pattern, val=pattern, size=[8, 12], fields=NAMES)
    fields = data.val_set[SampleRef(0, 1)].fields
    levels = torch.arange(96).view(8, 12)
    assert torch.equal(fields["segmentation"], levels % 5)
    torch.testing.assert_close(fields["depth"][0], levels * 500 / 65535 * 2 - 1)
    torch.testing.assert_close(fields["loss_weight"][0], levels / 255)
    assert torch.equal(fields["mask"][0], (levels * 2 >= 128).float())
    assert fields["neighbors"].shape == (4, 3)
    assert fields["image_embedding"].shape == (6,)
    assert fields["label"] == 3


def test_maps_become_smaller_with_their_image_without_mixing_classes(tmp_path):
    write(tmp_path / "images", "a", {"png": encoded(401, 133), "txt": b"x", **parts(401, 133)})
    pack(tmp_path / "out", images=tmp_path / "images", side=32)
    files = contents(tmp_path / "out")["a_png"]
    opened = {ending: Image.open(io.BytesIO(data)) for ending, data in files.items() if ending.endswith("png")}
    assert {picture.size for picture in opened.values()} == {(96, 32)}
    assert set(np.unique(np.asarray(opened["seg.png"]))) <= set(range(5))
    assert np.asarray(opened["depth.png"]).max() > 255
    pattern = f"{tmp_path}/out/train-*.tar"
    data = captioned(tmp_path, train=pattern, val=pattern, size=32, fields=NAMES)
    assert not data.val_set.broken([0])
    assert data.val_set[SampleRef(0, 0)].skipped == []


def test_images_that_a_table_names_have_parts_too(tmp_path):
    folder = images(tmp_path / "images", 3)
    write(folder, "001", parts())
    path = table(tmp_path / "c.csv", [(f"{n:03d}.png", f"number {n}") for n in range(3)])
    pack(tmp_path / "out", images=folder, captions=path)
    found = {key: set(files) & set(parts()) for key, files in contents(tmp_path / "out").items()}
    assert found == {"000_png": set(), "001_png": set(parts()), "002_png": set()}
    pack(tmp_path / "again", images=folder, captions=path, workers=2, samples_per_shard=1)
    assert {key: {**files, "shard": ""} for key, files in contents(tmp_path / "again").items()} == {
        key: {**files, "shard": ""} for key, files in contents(tmp_path / "out").items()
    }


@pytest.mark.parametrize(
    "names",
    [
        ["a.png", "a.seg.png", "a.mask.png", "a.seg.mask.png", "b.seg.png", "b.txt"],
        ["a.b.jpg", "a.b.cls", "a.cls", "a.b.depth.png"],
        ["a.png", "a.seg.png", "a.seg.txt", "a.neighbors.npy", "a.weight.png"],
    ],
)
def test_a_folder_and_a_shard_have_one_rule(names):
    skipped = []
    grouping = Grouping("x", skipped)
    for number, name in enumerate(names):
        grouping.add(Member(name, ByteRange(number, 1)))
    expected = {group.key: {e: m.name for e, m in group.parts.items()} for group in grouping.samples() if group.parts}
    assert find_parts(names) == expected
