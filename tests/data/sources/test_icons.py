import json
import tarfile

import pytest
import torch

from ldm.data.datamodule import CaptionedImages
from ldm.data.dataset import collate, finish
from ldm.data.order.shuffle import SampleRef
from ldm.data.sources.icons import Drawing, choose_icons, split_drawings
from tests.conftest import forked
from tests.data.small_shards import captioned, icons


def test_icons_are_the_same_bytes_every_time(tmp_path):
    first, second = (icons(tmp_path / name).write() for name in "ab")
    names = sorted(path.name for path in first.iterdir())
    assert names == ["train-000000.tar", "train-000001.tar", "train-000002.tar", "val-000000.tar"]
    assert all((first / name).read_bytes() == (second / name).read_bytes() for name in names)
    before = (first / names[0]).stat().st_mtime_ns
    icons(tmp_path / "a").write()
    assert (first / names[0]).stat().st_mtime_ns == before, "what is there is not written again"
    assert icons(tmp_path / "a", size=32).folder != first


@pytest.mark.parametrize("folder", ["[2023]", "{a}", "a*b?", "50%d"])
def test_icons_are_found_in_folders_of_any_name(tmp_path, folder):
    data = captioned(tmp_path, size=16, source=icons(tmp_path / folder))
    assert (len(data.train_set), len(data.val_set)) == (24, 6)


def test_nothing_is_left_of_a_failure(tmp_path, monkeypatch):
    source = icons(tmp_path)
    monkeypatch.setattr(source, "colors", {})
    with pytest.raises(KeyError):
        source.write()
    assert list(tmp_path.iterdir()) == []


def test_icons_hold_out_combinations_but_no_part(tmp_path):
    source = icons(tmp_path)
    train, val = set(source.train), set(source.val)
    assert len(val) == round(0.2 * 30)
    assert not train & val
    for field in range(3):
        assert {d[field] for d in val} <= {d[field] for d in train}
        assert {d[field] for d in train} == set((source.icons, source.colors, source.backgrounds)[field])
    pairs = {(d.icon, d.color) for d in train}
    assert {(d.icon, d.color) for d in val} <= pairs


def test_icons_shards_hold_what_is_drawn(tmp_path):
    source = icons(tmp_path)
    data = captioned(tmp_path, size=16, source=source)
    assert (len(data.train_set), len(data.val_set)) == (24, 6)
    for number, drawing in enumerate(source.val):
        batch = finish(collate([data.val_set[SampleRef(0, number)]]))
        assert batch.fields["caption"] == [drawing.caption]
        assert torch.equal(batch.fields["image"], source.images([drawing]))
    with tarfile.open(source.folder / "val-000000.tar") as archive:
        record = json.load(archive.extractfile("val-000000.json"))
        label = source.icons.index(source.val[0].icon)
        assert record == {"caption": source.val[0].caption, "label": label, **source.val[0]._asdict()}
        assert all(member.mtime == 0 for member in archive.getmembers())


def test_icons_have_the_number_of_their_drawing_as_label(tmp_path):
    source = icons(tmp_path)
    data = captioned(tmp_path, size=16, source=source, fields=["label"])
    for split, drawings in ((data.train_set, source.train), (data.val_set, source.val)):
        labels = split.fields_of(range(len(split)))["label"].tolist()
        assert labels == [source.icons.index(drawing.icon) for drawing in drawings]
    assert set(labels) <= set(range(len(source.icons)))


def test_icons_stand_in_the_middle_of_rectangles(tmp_path):
    square, wide, tall = (icons(tmp_path, size=size) for size in (16, [16, 24], [24, 16]))
    assert icons(tmp_path, size=[16, 16]).folder == square.folder
    assert len({square.folder, wide.folder, tall.folder}) == 3
    drawings = square.val
    images = [source.images(drawings) for source in (square, wide, tall)]
    assert [tuple(of_one.shape[2:]) for of_one in images] == [(16, 16), (16, 24), (24, 16)]
    assert torch.equal(images[1][:, :, :, 4:20], images[0])
    assert torch.equal(images[2][:, :, 4:20], images[0])
    edges = torch.cat([images[1][:, :, :, :4], images[1][:, :, :, 20:]], 3)
    assert torch.equal(edges, images[1][:, :, :1, :1].expand_as(edges)), "beside it is the background"
    data = captioned(tmp_path, size=[16, 24], source=wide)
    assert data.val_set[SampleRef(0, 0)].fields["image"].shape == (16, 24, 3)
    assert torch.equal(finish(collate([data.val_set[SampleRef(0, 0)]])).fields["image"], images[1][:1])


def test_captions_read_as_english():
    assert Drawing("heart", "red", "white").caption == "a red heart on a white background"
    assert Drawing("owl", "orange", "white").caption == "an orange owl on a white background"


def test_icons_refuse_what_cannot_be(tmp_path):
    with pytest.raises(ValueError, match="count=5000 icons asked for; there are 1 to 984"):
        choose_icons(5000)
    with pytest.raises(ValueError, match="invisible"):
        icons(tmp_path, backgrounds={"crimson": "#FF0000"})
    with pytest.raises(ValueError, match="nothing can be held out"):
        split_drawings([Drawing("heart", "red", "white")], 0.5)


def test_nothing_is_drawn_before_all_options_are_checked(tmp_path):
    source = icons(tmp_path)
    for options in ({"workers": -1}, {"crop": "middle"}, {"cache_latents": True, "flip": True}, {"window": 0}):
        with pytest.raises(ValueError, match="cannot be|latents can be cached"):
            CaptionedImages(**{"size": 16, "cache": tmp_path / "cache", "source": source, **options})
    data = CaptionedImages(size=16, cache=tmp_path / "cache", source=source)
    assert list(tmp_path.iterdir()) == []
    assert len(data.val_set) == 6, "what needs the data opens them"
    assert source.folder.is_dir()


@pytest.mark.parametrize(
    "option", [{"count": 0}, {"count": True}, {"size": 0}, {"samples_per_shard": 0}, {"val_fraction": 2}]
)
def test_options_of_icons(tmp_path, option):
    with pytest.raises(ValueError, match=rf"data.source.{next(iter(option))}=\S+ cannot be; give a"):
        icons(tmp_path, **option)


@pytest.mark.e2e
def test_a_side_that_the_networks_cannot_have_is_said_before_anything_is_drawn(tmp_path):
    places = [f"paths.data_dir={tmp_path}/data", f"paths.runs_dir={tmp_path}/runs"]
    text = forked("train.py", "experiment=txt2img", "debug=tiny", "trainer=cpu", "data.size=33", *places, ok=False)
    assert "33" in text
    assert "Traceback" not in text
    assert list(tmp_path.iterdir()) == []
