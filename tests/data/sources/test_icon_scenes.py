"""Scenes of several icons: what is held out, what is drawn, and that all fields say the same."""

import itertools
import json
import tarfile

import numpy as np
import pytest
import torch

from ldm.config import build, compose
from ldm.data.order.shuffle import SampleRef
from ldm.data.sources.icon_scenes import IconScenes, split_pairs
from ldm.data.sources.scene import Scene, SceneObject
from tests.data.small_shards import captioned

COLORS = {"red": "#e6194b", "yellow": "#ffe119", "green": "#2ca02c", "blue": "#1f5fff", "purple": "#8e2de2"}
BACKGROUNDS = {"white": "#ffffff", "black": "#000000"}
FIELDS = ["caption", "boxes", "segmentation", "depth"]


def scenes(folder, **options):
    settings = {
        "count": 16,
        "colors": COLORS,
        "backgrounds": BACKGROUNDS,
        "size": 48,
        "scenes": 30,
        "val_scenes": 10,
        "samples_per_shard": 20,
        "val_fraction": 0.25,
    }
    return IconScenes(folder, **{**settings, **options})


def test_scenes_are_the_same_bytes_every_time(tmp_path):
    first, second = (scenes(tmp_path / name).write() for name in "ab")
    names = sorted(path.name for path in first.iterdir())
    assert names == ["train-000000.tar", "train-000001.tar", "val-000000.tar"]
    assert all((first / name).read_bytes() == (second / name).read_bytes() for name in names)
    others = [
        scenes(tmp_path, **option).folder
        for option in ({"size": 40}, {"scenes": 31}, {"objects": [2, 3]}, {"count": 15})
    ]
    assert len({first.name, *(folder.name for folder in others)}) == 5


def test_pairs_of_icon_and_color_are_really_held_out(tmp_path):
    source = scenes(tmp_path, scenes=400, val_scenes=100)
    assert len(source.val_pairs) == round(0.25 * 16 * 5)
    assert not set(source.train_pairs) & set(source.val_pairs)
    seen = {split: {thing[:2] for scene in drawn for thing in scene.objects} for split, drawn in
            (("train", source.train), ("val", source.val))}  # fmt: skip
    assert seen["train"] <= set(source.train_pairs)
    assert seen["val"] <= set(source.val_pairs)
    for part in range(2):
        assert {pair[part] for pair in source.val_pairs} <= {pair[part] for pair in seen["train"]}
    assert not {scene.caption for scene in source.train} & {scene.caption for scene in source.val}
    assert split_pairs(["a"], ["b", "c"], 0.9) == ([("a", "b"), ("a", "c")], []), "each part stays in training"


def test_icons_of_a_scene_differ_and_do_not_overlap(tmp_path):
    for size in (48, [48, 80]):
        source = scenes(tmp_path, size=size, scenes=150)
        counts = set()
        for scene in source.train:
            counts.add(len(scene.objects))
            assert len({thing.icon for thing in scene.objects}) == len({thing.color for thing in scene.objects})
            assert len({thing.icon for thing in scene.objects}) == len(scene.objects)
            for thing in scene.objects:
                assert 1 <= thing.left <= source.width - thing.side - 1
                assert 1 <= thing.top <= source.height - thing.side - 1
                assert 12 <= thing.side <= 24
            for one, two in itertools.combinations(scene.objects, 2):
                apart = (one.left + one.side < two.left, two.left + two.side < one.left)
                assert any((*apart, one.top + one.side < two.top, two.top + two.side < one.top))
        assert counts == {2, 3, 4}


def test_image_boxes_label_map_and_depth_agree(tmp_path):
    source = scenes(tmp_path)
    for scene in source.train:
        drawn = source.render(scene)
        canvas = np.array(source.renderer.backgrounds[scene.canvas])
        assert (drawn.image[drawn.segmentation == 0] == canvas).all(-1).mean() > 0.9, "but for smooth edges"
        assert np.array_equal(drawn.depth > 0, drawn.segmentation > 0)
        for thing, (label, *box) in zip(scene.objects, drawn.boxes):
            assert source.icons[int(label)] == thing.icon
            number = list(COLORS).index(thing.color) + 1
            rows, columns = np.nonzero(drawn.segmentation == number)
            assert np.allclose(np.array(box) * 48, [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
            inside = drawn.image[rows, columns].astype(float)
            off = {name: np.abs(inside.mean(0) - color).sum() for name, color in source.renderer.colors.items()}
            assert min(off, key=off.__getitem__) == thing.color, "a region has the colour of its class"
            (depth,) = set(drawn.depth[rows, columns].tolist())
            assert depth == round(255 / source.renderer.distance(thing))
            assert 127 <= depth <= 255
        near = sorted(scene.objects, key=lambda thing: thing.side)
        assert [*map(source.renderer.distance, near)] == sorted(map(source.renderer.distance, near), reverse=True)


def test_shards_hold_what_is_drawn(tmp_path):
    source = scenes(tmp_path)
    data = captioned(tmp_path, size=48, source=source, fields=FIELDS)
    assert (len(data.train_set), len(data.val_set)) == (30, 10)
    assert not data.val_set.broken(range(10))
    truth = source.truth(source.val)
    for number, scene in enumerate(source.val):
        fields = data.val_set[SampleRef(0, number)].fields
        assert fields["caption"] == scene.caption == truth["caption"][number]
        assert torch.equal(torch.tensor(fields["image"]) / 127.5 - 1, truth["image"][number].permute(1, 2, 0))
        assert torch.equal(fields["segmentation"], truth["segmentation"][number])
        torch.testing.assert_close(fields["depth"], truth["depth"][number])
        torch.testing.assert_close(fields["boxes"], truth["boxes"][number, : len(scene.objects)])
    with tarfile.open(source.folder / "val-000000.tar") as archive:
        record = json.load(archive.extractfile("val-000000.json"))
        assert {member.name.partition(".")[2] for member in archive} == {"png", "txt", "json", "seg.png", "depth.png"}
    objects = tuple(SceneObject(**{k: v for k, v in entry.items() if k != "distance"}) for entry in record["objects"])
    assert Scene(record["canvas"], objects) == source.val[0], "a scene is made again from its .json"


def test_captions_read_as_english():
    things = [
        SceneObject("owl", "orange", 0, 0, 9),
        SceneObject("cat", "red", 9, 0, 9),
        SceneObject("key", "blue", 20, 0, 9),
    ]
    assert Scene("white", tuple(things)).caption == "an orange owl, a red cat and a blue key on a white background"
    assert Scene("black", (things[0],)).caption == "an orange owl on a black background"


def test_scenes_refuse_what_cannot_be(tmp_path):
    with pytest.raises(ValueError, match="no scene of 3 to 4 icons of different names and colours was found among"):
        scenes(tmp_path, count=2, objects=[3, 4])
    with pytest.raises(ValueError, match="invisible"):
        scenes(tmp_path, backgrounds={"crimson": "#E6194B"})
    for option in ({"objects": [3, 2]}, {"objects": [0, 2]}, {"scenes": 0}, {"val_scenes": 0}, {"size": 0}):
        with pytest.raises(ValueError, match=f"data.source.{next(iter(option))}="):
            scenes(tmp_path, **option)


def test_the_config_builds_them_with_all_that_a_model_may_need(tmp_path):
    options = ["experiment=txt2img", "data=icon_scenes", "metric=offline", f"paths.data_dir={tmp_path}"]
    data = build(compose("train", [*options, "data.source.scenes=12", "data.source.val_scenes=4"]).data)
    data.need([*FIELDS, "low_resolution", "mask"])
    data.set_batch(4, 1, 1)
    batch = next(iter(data.train_dataloader()))
    shapes = {name: tuple(value.shape[1:]) for name, value in batch.fields.items() if name not in ("caption", "boxes")}
    assert shapes == {
        "image": (3, 64, 64),
        "segmentation": (64, 64),
        "depth": (1, 64, 64),
        "low_resolution": (3, 16, 16),
        "mask": (1, 64, 64),
        "geometry": (6,),
    }
    assert "caption_accuracy" not in compose("train", options).metric, "captions of scenes name no single drawing"
