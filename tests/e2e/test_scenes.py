"""Models conditioned on where things stand, by label maps, boxes and depth: trained, judged by the truth, and sampled."""

import json
from functools import cache

import numpy as np
import pytest
import torch
from PIL import Image

from ldm.checkpoint import load, save
from ldm.config import build, compose, resolved
from ldm.files.picture import to_tensor
from ldm.generation.sample import sample
from tests.conftest import forked, scramble, train_whole

pytestmark = pytest.mark.e2e

NUMBERS = {
    "segmentation": ["region_color_accuracy"],
    "layout": ["layout_iou", "layout_icon_accuracy"],
    "depth": ["depth_iou"],
}
"""Kind of condition -> what the experiment of this kind measures."""

HERE, THERE = "[{label: 3, box: [0.1, 0.1, 0.5, 0.5]}]", "[{label: 3, box: [0.5, 0.5, 0.9, 0.9]}]"
TWO = "[{label: 3, box: [0.1, 0.1, 0.5, 0.5]}, {label: 1, box: [0.6, 0.5, 0.9, 0.8]}]"


@pytest.fixture(scope="module")
def scene_run(tiny_run, places, home):
    """A function that gives the folder of a finished tiny run of a kind; each is trained once."""

    @cache
    def finished(kind):
        forked(
            "train.py", f"experiment={kind}_icons", "debug=tiny", "trainer=cpu", f"name={kind}-tiny",
            f"autoencoder.ckpt={tiny_run}", "stage.diffusion.trainer.max_steps=10", "data.source.scenes=64",
            "data.source.val_scenes=16", *places,
        )  # fmt: skip
        return home / "runs" / f"{kind}-tiny"

    return finished


@pytest.fixture(scope="module")
def model_of(tmp_path_factory):
    """A function that gives the file of a tiny model of a kind whose random weights make much of its condition."""
    folder = tmp_path_factory.mktemp("models")

    @cache
    def made(kind):
        config = resolved(compose("train", [f"experiment={kind}_icons", "debug=tiny"]))["model"]
        model = build(config)
        model.conditioner.prepare(None)
        with torch.no_grad():
            for part in (*scramble(model.denoiser).parameters(), *scramble(model.conditioner).parameters()):
                part.mul_(5.0)
        save(folder / f"{kind}.safetensors", model, config)
        return folder / f"{kind}.safetensors"

    return made


@pytest.fixture(scope="module")
def maps(tmp_path_factory):
    """A folder for each kind of map, with two of them, of 64 x 64 pixels: an icon's place at the left and at the right."""
    folder = tmp_path_factory.mktemp("maps")
    for kind, level in (("segmentation", 2), ("depth", 255)):
        (folder / kind).mkdir()
        for name, left in (("a", 8), ("b", 40)):
            levels = np.zeros((64, 64), np.uint8)
            levels[16:40, left : left + 16] = level
            Image.fromarray(levels).save(folder / kind / f"{name}.png")
    return folder


def drawn(run, out, *options):
    """Return the images that a command draws, as levels."""
    sample(compose("sample", [f"ckpt={run}", f"out={out}", "sampler.steps=4", "device=cpu", *options]))
    return [np.asarray(Image.open(file)) for file in sorted(out.glob("0*.png"))]


def same(first, second):
    """Return whether two images are the same but for rounding, which depends on what else is in the batch."""
    return first.shape == second.shape and np.abs(first.astype(int) - second.astype(int)).max() <= 2


@pytest.mark.parametrize("kind", NUMBERS)
def test_a_tiny_run_is_judged_by_the_truth(scene_run, kind):
    results = json.loads((scene_run(kind) / "diffusion" / "results.json").read_text())
    assert all(0.0 <= results[f"eval/{name}"] <= 1.0 for name in NUMBERS[kind])
    assert results["eval/frechet_efficientnet"] > 0


@pytest.mark.parametrize("kind", ["segmentation", "depth"])
def test_an_image_is_as_large_as_its_map_also_where_the_model_was_trained_on_half_of_that(
    model_of, maps, tmp_path, kind
):
    run = model_of(kind)
    assert tuple(load(run).size) == (32, 32)
    one = drawn(run, tmp_path / "one", f"{kind}={maps / kind / 'a.png'}", "n=2", "seed=3")
    assert [image.shape for image in one] == [(64, 64, 3)] * 2
    assert not same(*one)
    both = drawn(run, tmp_path / "both", f"{kind}={maps / kind}", "n=1", "seed=3")
    assert same(both[0], one[0])
    assert len(both) == 2, "one for each map"
    again = drawn(run, tmp_path / "again", f"{kind}={maps / kind / 'b.png'}", "n=1", "seed=3")
    assert not same(again[0], one[0]), "the map matters"
    smaller = drawn(run, tmp_path / "smaller", f"{kind}={maps / kind / 'a.png'}", "n=1", "seed=3", "size=32")
    assert smaller[0].shape == (32, 32, 3)


def test_a_layout_is_given_by_an_option_and_at_other_sizes(model_of, tmp_path):
    run = model_of("layout")
    here = drawn(run, tmp_path / "here", f"layout={HERE}", "n=2", "seed=3")
    assert [image.shape for image in here] == [(32, 32, 3)] * 2
    led = [
        drawn(run, tmp_path / f"led{at}", f"layout={layout}", "n=1", "seed=3", "guidance.scale=100")[0]
        for at, layout in enumerate((HERE, THERE, TWO))
    ]
    assert not any(same(led[0], other) for other in led[1:]), "the layout matters"
    (file := tmp_path / "layouts.jsonl").write_text(
        '[{"label": 3, "box": [0.1, 0.1, 0.5, 0.5]}]\n[{"label": 1, "box": [0.5, 0.5, 0.9, 0.9]}]\n'
    )
    assert same(drawn(run, tmp_path / "file", f"layout={file}", "n=1", "seed=3")[0], here[0])
    (wide,) = drawn(run, tmp_path / "wide", f"layout={HERE}", "n=1", "size=[32,48]")
    assert wide.shape == (32, 48, 3)


def both(kind, maps):
    """Return two options that give a model of a kind different conditions."""
    if kind == "layout":
        return [f"layout={value}" for value in (HERE, THERE)]
    return [f"{kind}={maps / kind / name}.png" for name in "ab"]


@pytest.mark.parametrize("kind", NUMBERS)
def test_there_is_a_way_from_one_condition_to_another(model_of, maps, tmp_path, kind):
    run, conditions = model_of(kind), both(kind, maps)
    led = ["guidance.scale=100"] if kind == "layout" else []
    ends = [drawn(run, tmp_path / f"given{at}", one, "n=1", "seed=3", *led)[0] for at, one in enumerate(conditions)]
    way = drawn(run, tmp_path / "way", "mode=interpolate", conditions[0], f"to_{conditions[1]}", "seed=3", "n=3", *led)
    assert same(way[0], ends[0])
    assert same(way[2], ends[1])
    assert not any(same(way[1], end) for end in ends)


@pytest.mark.parametrize("kind", NUMBERS)
def test_images_are_changed_and_interpolated_under_a_condition(model_of, maps, tmp_path, kind):
    run, conditions = model_of(kind), both(kind, maps)
    ends = [drawn(run, tmp_path / f"end{seed}", conditions[0], "n=1", f"seed={seed}")[0] for seed in (3, 8)]
    way = drawn(run, tmp_path / "way", "mode=interpolate", conditions[0], "seed=3", "to_seed=8", "n=3")
    assert len(way) == 3
    assert same(way[0], ends[0])
    assert same(way[2], ends[1])
    assert not any(same(way[1], end) for end in ends)
    init = f"init={tmp_path / 'end3' / '00000.png'}"
    options = ["mode=img2img", init, "n=1", "seed=3"]
    back = drawn(run, tmp_path / "back", *options, conditions[1], "strength=0")
    options += ["guidance.scale=100"] if kind == "layout" else []
    changed = [drawn(run, tmp_path / f"to{at}", *options, one, "strength=0.75")[0] for at, one in enumerate(conditions)]
    assert back[0].shape == changed[0].shape == ends[0].shape
    assert not same(*changed), "the condition matters"
    with torch.no_grad():
        network = load(run).autoencoder
        expected = network.decode(network.encode(to_tensor(Image.fromarray(ends[0]))[None]).mean)[0].clamp(-1, 1)
    assert (to_tensor(Image.fromarray(back[0])) - expected).abs().max() <= 2 / 127.5, "strength=0 keeps the image"


@pytest.fixture(scope="module")
def first_stage(tmp_path_factory):
    """The folder of a finished run of the scenes' autoencoder, whose folder holds the data and the other runs."""
    home = tmp_path_factory.mktemp("scenes")
    train_whole("experiment=segmentation_icons", "stage=[autoencoder_icons]", "name=scenes", *under(home))
    return home / "runs" / "scenes"


def under(home):
    return [f"paths.data_dir={home / 'data'}", f"paths.runs_dir={home / 'runs'}"]


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "name", "least"),
    [("segmentation", "region_color_accuracy", 0.58), ("layout", "layout_iou", 0.65), ("depth", "depth_iou", 0.36)],
)
def test_the_condition_is_drawn(first_stage, kind, name, least):
    """The same images judged by the condition of another scene have 0.15, 0.15 and 0.07."""
    home = first_stage.parent.parent
    train_whole(f"experiment={kind}_icons", f"autoencoder.ckpt={first_stage}", *under(home))
    results = json.loads((home / "runs" / f"{kind}_icons" / "diffusion" / "results.json").read_text())
    assert results[f"eval/{name}"] > least
