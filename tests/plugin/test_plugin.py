"""A package that ldm knows nothing of gives one part of each kind; a run trains with them, and they draw images."""

import importlib
import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ldm.checkpoint import load
from ldm.diffusion.schedule import ScaledLinearSchedule
from ldm.generation.start import ImageStart
from ldm.sampler.ddim import DDIM
from tests.conftest import ROOT, forked
from tests.sampler.test_order import error_after
from tests.training.stages import composed, stages

HERE = Path(__file__).parent
CONFIGS = ["--config-dir", str(HERE / "configs")]
PARTS = [
    *("data=squares", "conditioner=bag_of_words", "backbone=resnet", "sampler=midpoint", "guidance=fading"),
    *("metric=colour", "stage=[autoencoder_icons,diffusion_icons,colour]"),
]


@pytest.fixture(scope="module", autouse=True)
def _importable():
    """The package can be imported here and in commands, as by PYTHONPATH."""
    sys.path.insert(0, str(HERE))
    yield
    sys.path.remove(str(HERE))


@pytest.fixture(scope="module")
def training(places):
    """The command that trains with all parts."""
    return ["train.py", *CONFIGS, "experiment=txt2img", "debug=tiny", "trainer=cpu", *PARTS, "name=studio", *places]


@pytest.fixture(scope="module")
def run(training, home):
    """The folder of the finished run."""
    text = forked(*training)
    assert "next: look at the colours" in text
    return home / "runs" / "studio"


@pytest.mark.e2e
def test_a_run_of_parts_of_another_package(run, training):
    results = {name: json.loads((run / name / "results.json").read_text()) for name in ("diffusion", "colour")}
    assert 0 <= results["diffusion"]["eval/colour_accuracy"] <= 1
    assert results["colour"]["steps"] == 5
    assert "val/error" in results["colour"]
    assert (run / "colour.safetensors").is_file()
    assert "all is done already" in forked(*training)


@pytest.mark.e2e
def test_its_model_is_loaded_where_its_package_is_named_and_not_otherwise(run, tmp_path):
    model = load(run, packages=("ldm", "studio"))
    kinds = [
        type(part).__module__ for part in (model.conditioner, model.denoiser.backbone, model.sampler, model.guidance)
    ]
    assert kinds == ["studio.conditioner", "studio.backbone", "studio.sampler", "studio.guidance"]
    assert model.sample(prompts="a red square", size=32).shape == (1, 3, 32, 32)
    with pytest.raises(ValueError, match="name its package"):
        load(run)
    text = forked("sample.py", f"ckpt={run}", "prompt=a red square", f"out={tmp_path / 'out'}", ok=False)
    assert "packages=[ldm,mine]" in text
    assert not (tmp_path / "out").exists()


def test_its_sampler_is_of_second_order():
    midpoint = importlib.import_module("studio.sampler").Midpoint
    few, many = (error_after(midpoint, {}, steps, ScaledLinearSchedule(), 0.95, 0.4) for steps in (80, 160))
    assert math.log2(few / many) == pytest.approx(2.0, abs=0.3)


def test_its_metric_is_1_on_its_data_and_0_on_other_captions():
    metric = importlib.import_module("studio.metric").ColourAccuracy({"red": "#e6194b", "blue": "#1f5fff"})
    image = torch.ones(1, 3, 32, 32)
    image[0, :, 10:20, :10] = torch.tensor([0x1F, 0x5F, 0xFF])[:, None, None] / 127.5 - 1
    for color, share in (("blue", 1.0), ("red", 0.0)):
        found = metric.measure(image, {"caption": [f"a {color} square at the middle left"]})
        assert found["colour_accuracy"].tolist() == [share]


def test_the_page_shows_the_files_as_they_are():
    page = (ROOT / "docs" / "add-a-part.md").read_text()
    assert (HERE / "studio" / "conditioner.py").read_text() in page
    assert (HERE / "configs" / "conditioner" / "bag_of_words.yaml").read_text() in page
    assert " ".join(PARTS[:-1]) in " ".join(page.replace("\\\n", "").split())
    constructor = page.split("```py\n    def __init__", 1)[1].partition("```")[0]
    assert f"    def __init__{constructor}" in (HERE / "studio" / "stage.py").read_text()
    for part in PARTS[:-1]:
        assert f"| `{part.partition('=')[2]}` |" in page


def test_the_command_to_sample_names_its_package(training):
    (stage,) = [
        stage
        for stage in stages(composed(f"hydra.searchpath=[file://{HERE}/configs]", *training[3:])).values()
        if stage.name == "diffusion"
    ]
    assert "'packages=[ldm,studio]' prompt=" in stage.next_command()


@pytest.mark.e2e
def test_a_start_can_be_built_of_another(run):
    """What begins with an image and ends as its mirror image is a class of a few lines."""
    mirror = importlib.import_module("studio.mode").Mirror
    model, image = load(run, packages=("ldm", "studio")), torch.rand(1, 3, 32, 40) * 2 - 1
    plain = model.sample(prompts="a", start=ImageStart(image, 0.5), sampler=DDIM(4))
    turned = model.sample(prompts="a", start=mirror(ImageStart(image, 0.5)), sampler=DDIM(4))
    assert plain.shape == (1, 3, 32, 40)
    assert torch.equal(turned, plain.flip(3))


@pytest.mark.e2e
def test_its_sampler_guidance_and_mode_draw(run, tmp_path):
    options = [
        *CONFIGS,
        f"ckpt={run}",
        "packages=[ldm,studio]",
        "prompt=a red square at the top left",
        "n=1",
        "device=cpu",
    ]
    options += ["mode=mirrored", "sampler=midpoint", "sampler.steps=2", "guidance=fading", "guidance.scale=3"]
    for turned in ("true", "false"):
        forked("sample.py", *options, f"turned={turned}", f"out={tmp_path / turned}")
    first, second = (np.asarray(Image.open(tmp_path / turned / "00000.png")) for turned in ("true", "false"))
    assert np.array_equal(first[:, ::-1], second)
    record = json.loads((tmp_path / "true" / "samples.jsonl").read_text())
    assert (record["mode"], record["turned"]) == ("mirrored", True)
    assert record["guidance"] == {"_target_": "studio.guidance.Fading", "scale": 3}
