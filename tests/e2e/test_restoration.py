"""Models of the embedded icons that enlarge and complete: tiny ones run, and whole ones come nearer to the truth than others."""

import json

import pytest
from PIL import Image

from ldm.checkpoint import load
from tests.conftest import forked, train_whole

pytestmark = pytest.mark.e2e

FIDELITY = {
    "super_resolution_icons": {"eval/enlarged_psnr", "eval/bicubic_psnr"},
    "inpainting_icons": {"eval/hole_psnr", "eval/mean_color_psnr"},
}
"""Experiment -> names of the scores that compare with the truth."""

NEXT = {
    "super_resolution_icons": "mode=super_resolution low_resolution=FILE n=4 seed=0",
    "inpainting_icons": "mode=inpaint init=FILE mask=FILE n=4",
}
"""Experiment -> options of the command that its run ends with."""


def results(run):
    return json.loads((run / "diffusion" / "results.json").read_text())


def train(home, places, experiment, autoencoder, *options):
    """Train the second stage of an experiment, and return the folder of the run."""
    text = forked("train.py", f"experiment={experiment}", "stage=[diffusion_icons]", "trainer=cpu", *options,
                  f"autoencoder.ckpt={autoencoder}", *places)  # fmt: skip
    assert NEXT[experiment] in text
    return home / "runs" / next(option.removeprefix("name=") for option in options if option.startswith("name="))


@pytest.mark.parametrize("experiment", FIDELITY)
def test_a_tiny_run_is_measured_by_the_truth_and_its_model_can_be_sampled(tiny_run, home, places, tmp_path, experiment):
    options = ["debug=tiny", f"name=tiny_{experiment}", "stage.diffusion.trainer.max_steps=10"]
    run = train(home, places, experiment, tiny_run, *options)
    found = {name for name in results(run) if name.startswith("eval/")}
    assert found == {*FIDELITY[experiment], "eval/frechet_efficientnet"}
    Image.new("RGB", (9, 10), "teal").save(tmp_path / "small.png")
    Image.new("RGB", (36, 40), "teal").save(tmp_path / "init.png")
    mask = Image.new("L", (36, 40))
    mask.paste(255, (8, 8, 20, 20))
    mask.save(tmp_path / "mask.png")
    asked = {
        "super_resolution_icons": ["mode=super_resolution", f"low_resolution={tmp_path / 'small.png'}"],
        "inpainting_icons": ["mode=inpaint", f"init={tmp_path / 'init.png'}", f"mask={tmp_path / 'mask.png'}"],
    }
    forked("sample.py", f"ckpt={run}", *asked[experiment], "n=1", "sampler.steps=2", f"out={tmp_path / 'out'}")
    with Image.open(tmp_path / "out" / "00000.png") as image:
        assert image.size == ((36, 40) if "super" in experiment else (32, 40))
    if "super" in experiment:
        assert load(run).conditioner.factor == 4, "it travels in the checkpoint"


@pytest.mark.long
@pytest.mark.slow
def test_an_enlarged_icon_is_nearer_to_the_truth_than_bicubic_interpolation(whole_autoencoder, home, places):
    train_whole("experiment=super_resolution_icons", "name=enlarging", f"autoencoder.ckpt={whole_autoencoder}", *places)
    scores = results(home / "runs" / "enlarging")
    assert scores["eval/enlarged_psnr"] > scores["eval/bicubic_psnr"] + 6.5


@pytest.mark.long
@pytest.mark.slow
def test_a_completed_icon_is_far_nearer_to_the_truth_than_the_mean_color(whole_autoencoder, home, places):
    train_whole("experiment=inpainting_icons", "name=completing", f"autoencoder.ckpt={whole_autoencoder}", *places)
    scores = results(home / "runs" / "completing")
    assert scores["eval/hole_psnr"] > scores["eval/mean_color_psnr"] + 8
