"""Models of the embedded icons conditioned on a class or an image: tiny ones run, and whole ones draw their condition."""

import json

import pytest
import torch
from PIL import Image

from ldm.checkpoint import load
from ldm.config import build
from ldm.files.picture import to_tensor
from ldm.guidance.base import NoGuidance
from ldm.guidance.classifier_free import ClassifierFreeGuidance
from ldm.metric.label import LabelAccuracy
from tests.configs import composed
from tests.conftest import forked, scramble, train_whole
from tests.metric.measured import Measured

pytestmark = pytest.mark.e2e


def images_in(folder):
    """Return the images in a folder of samples, `(N, 3, H, W)`."""
    return torch.stack([to_tensor(Image.open(file).convert("RGB")) for file in sorted(folder.glob("0*.png"))])


def results(run):
    return json.loads((run / "diffusion" / "results.json").read_text())


@pytest.fixture(scope="module")
def class_run(home, places, tiny_run):
    """The folder of a tiny run conditioned on classes."""
    same = ["train.py", "experiment=class_icons", "debug=tiny", "trainer=cpu", "name=class", f"autoencoder.ckpt={tiny_run}",
            "stage.diffusion.trainer.max_steps=10", *places]  # fmt: skip
    for said in (forked(*same), forked(*same)):
        assert "label=0 n=4 seed=0" in said, "the next command fits the model, also where all was done before"
    return home / "runs" / "class"


def test_classes_are_measured_by_label_accuracy_alone(class_run):
    assert {name for name in results(class_run) if "accuracy" in name} == {"eval/label_accuracy"}


def test_a_class_is_given_by_number_and_by_name(class_run, tmp_path):
    for place, label in (("numbers", "[0,3]"), ("names", "[heart,star]")):
        forked("sample.py", f"ckpt={class_run}", f"label={label}", "n=2", f"out={tmp_path / place}")
    assert torch.equal(images_in(tmp_path / "numbers"), images_in(tmp_path / "names"))
    record = (tmp_path / "names" / "samples.jsonl").read_text().splitlines()
    assert [json.loads(line)["label"] for line in record] == [0, 0, 3, 3]


def test_a_class_that_is_not_known_is_said_before_anything_is_written(class_run, tmp_path):
    said = forked("sample.py", f"ckpt={class_run}", "label=haert", f"out={tmp_path / 'out'}", ok=False)
    assert "this model knows no class 'haert'; did you mean heart?" in said
    assert not (tmp_path / "out").exists()


def test_guidance_changes_images_of_classes_and_scale_one_is_none(class_run):
    model = load(class_run)
    scramble(model.denoiser)
    plain, one, three = (
        model.sample({"label": [0, 3]}, seeds=[1, 2], guidance=guidance)
        for guidance in (NoGuidance(), ClassifierFreeGuidance(1.0), ClassifierFreeGuidance(3.0))
    )
    assert torch.equal(plain, one)
    assert not torch.allclose(plain, three, atol=1e-3)


def test_an_image_is_shown_to_a_model_that_needs_no_download(home, places, tiny_run, tmp_path):
    forked("train.py", "experiment=variation_icons", "debug=tiny", "trainer=cpu", "name=variation", *places,
           f"autoencoder.ckpt={tiny_run}", "stage.diffusion.trainer.max_steps=10")  # fmt: skip
    run = home / "runs" / "variation"
    parts = ["", "icon_", "color_", "background_"]
    assert {name for name in results(run) if "accuracy" in name} == {f"eval/variation_{part}accuracy" for part in parts}
    Image.new("RGB", (40, 32), "red").save(tmp_path / "red.png")
    forked("sample.py", f"ckpt={run}", f"image={tmp_path / 'red.png'}", "n=2", f"out={tmp_path / 'out'}")
    assert images_in(tmp_path / "out").shape == (2, 3, 32, 32)
    model = load(run)
    scramble(model.denoiser)
    shown = torch.tensor([[1.0, -1.0, -1.0], [-1.0, -1.0, 1.0]])[:, :, None, None].expand(2, 3, 32, 32)
    red, blue = model.sample({"image": shown}, seeds=[1, 1])
    assert not torch.equal(red, blue)


@pytest.mark.long
@pytest.mark.slow
def test_a_model_conditioned_on_classes_draws_them(whole_autoencoder, home, places, tmp_path):
    train_whole("experiment=class_icons", "name=classes", f"autoencoder.ckpt={whole_autoencoder}", *places)
    run = home / "runs" / "classes"
    assert results(run)["eval/label_accuracy"] >= 0.9
    metric = Measured(LabelAccuracy(build(composed("train", "experiment=class_icons", *places).data.source)))
    for label, number in (("3", 3), ("cat", 1), ("umbrella", 63)):
        forked("sample.py", f"ckpt={run}", f"label={label}", "n=16", f"out={tmp_path / label}")
        metric.update(images_in(tmp_path / label), {"label": torch.full((16,), number)})
    assert metric.compute()["label_accuracy"] >= 0.9


@pytest.mark.long
@pytest.mark.slow
def test_variations_show_what_they_are_shown(whole_autoencoder, home, places):
    train_whole("experiment=variation_icons", "name=shown", f"autoencoder.ckpt={whole_autoencoder}", *places)
    scores = results(home / "runs" / "shown")
    for part, least in {"icon_": 0.85, "color_": 0.7, "background_": 0.85}.items():
        assert scores[f"eval/variation_{part}accuracy"] >= least
