"""Whole runs with conditioners that read no caption: nothing at all, and the image by a frozen network."""

import json
import re

import pytest
import torch

from ldm.batch import whole_geometry
from ldm.checkpoint import load
from tests.conditioner.small import fields_of, save_depth, save_vision
from tests.conftest import forked

pytestmark = pytest.mark.e2e


@pytest.mark.parametrize("kind", ["unconditional", "depth", "image"])
def test_a_tiny_run_trains_is_evaluated_and_its_checkpoint_is_complete(tiny_run, places, home, tmp_path, kind):
    options = {
        "unconditional": [],
        "depth": ["conditioner.size=32", "data.cache_latents=false"],
        "image": [
            "conditioner.width=8",
            "conditioner.embedding_width=8",
            "conditioner.size=24",
            "data.cache_latents=false",
        ],
    }[kind]
    if kind != "unconditional":
        (save_depth if kind == "depth" else lambda folder: save_vision(folder, "clip"))(tmp_path)
        options += [f"conditioner.name={tmp_path}"]
    forked(
        "train.py", "experiment=txt2img", "debug=tiny", "trainer=cpu", f"conditioner={kind}", f"name={kind}", "metric=offline",
        f"autoencoder.ckpt={tiny_run}", "stage.diffusion.trainer.max_steps=10", *options, *places,
    )  # fmt: skip
    results = json.loads((home / "runs" / kind / "diffusion" / "results.json").read_text())
    assert results["eval/frechet_efficientnet"] > 0
    for file in tmp_path.iterdir():
        file.unlink()
    model = load(home / "runs" / kind)
    fields = {name: value for name, value in fields_of(2).items() if name == "image"}
    small = {"image": fields["image"][..., :32]}
    given = small if kind != "unconditional" else {"geometry": whole_geometry(32, 2)}
    images = model.sample(given, seeds=[1, 2])
    assert images.shape == (2, 3, 32, 32)
    other = model.sample({"image": -small["image"]}, seeds=[1, 2])
    assert torch.equal(other, images) == (kind == "unconditional")


def test_a_class_that_there_is_not_ends_a_run_before_its_first_stage(places, home):
    text = forked(
        "train.py", "experiment=txt2img", "debug=tiny", "trainer=cpu", "conditioner=label", "conditioner.num_classes=1",
        "name=wrong", "metric=offline", *places, ok=False,
    )  # fmt: skip
    named = "error: in data.train, the field label of the sample '[^']+' has the value [1-9]"
    assert re.search(named + ".*0 to 0.*set a larger conditioner.num_cl", text)
    assert not (home / "runs" / "wrong").exists()
