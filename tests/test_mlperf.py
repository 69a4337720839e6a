"""experiment=mlperf_sd is the benchmark: its network, its objective, and the hyperparameters of its reference points."""

import json
import re
from importlib.resources import files

import pytest
import torch

from ldm.config import CONFIGS, build, resolved
from ldm.diffusion.prediction import VelocityPrediction
from tests.conftest import ROOT
from tests.training.stages import composed

POINTS = {
    point["BS"]: point
    for point in json.loads(
        (files("mlperf_logging") / "rcp_checker" / "training_5.0.0" / "rcps_stable_diffusion.json").read_text()
    ).values()
}
"""Batch -> what the package says of the reference run with it."""


def config(*options):
    return resolved(composed("experiment=mlperf_sd", "data.train=a", "data.val=b", *options))


def test_the_default_is_a_reference_point():
    stage = config()["stage"]["diffusion"]
    assert stage["batch_size"] in POINTS


@pytest.mark.parametrize("batch", POINTS)
def test_hyperparameters_are_those_of_the_reference_points(batch):
    point = POINTS[batch]["Hyperparams"]
    base = point["opt_base_learning_rate"]
    default = config()
    options = [] if batch == default["stage"]["diffusion"]["batch_size"] else [f"base_learning_rate={base}"]
    made = config(f"stage.diffusion.batch_size={batch}", *options)
    stage = made["stage"]["diffusion"]
    assert made["base_learning_rate"] == base
    optimizer = stage["optimizer"]
    assert optimizer["lr"] == pytest.approx(base * batch, rel=1e-12)
    assert optimizer["_target_"] == "torch.optim.AdamW"
    assert optimizer["betas"] == [point["opt_adamw_beta_1"], point["opt_adamw_beta_2"]]
    assert optimizer["eps"] == point["opt_adamw_epsilon"]
    assert optimizer["weight_decay"] == point["opt_adamw_weight_decay"]
    assert stage["scheduler"]["_target_"] == "ldm.optim.scheduler.ConstantWithWarmup"
    assert stage["scheduler"]["warmup_steps"] == point["opt_learning_rate_warmup_steps"]
    assert stage["trainer"]["gradient_clip_val"] is None
    every = stage["callbacks"]["checkpoint"]["every_n_steps"]
    assert {samples % (every * batch) for samples in POINTS[batch]["Epochs to converge"]} == {0}, "the same points"
    assert stage["callbacks"]["checkpoint"]["keep"] is None
    assert stage["trainer"]["max_steps"] * batch >= max(POINTS[batch]["Epochs to converge"])


def rate(point):
    return f"{point['Hyperparams']['opt_base_learning_rate'] * 1e7:g}e-7"


def test_the_page_has_a_row_for_each_reference_point():
    page = (ROOT / "docs" / "mlperf.md").read_text()
    for batch, point in POINTS.items():
        images = [samples / 1e6 for samples in point["Epochs to converge"]]
        assert f"\n| {batch} | {rate(point)} | {min(images):.2f} to {max(images):.2f} |\n" in page


def test_the_config_says_the_base_rate_of_each_batch():
    text = (CONFIGS / "experiment" / "mlperf_sd.yaml").read_text()
    written = re.findall(r"((?:\d+ and )?\d+): (\S+e-7)", text.partition("by batch: ")[2].partition("\n")[0])
    found = {int(batch): rate for batches, rate in written for batch in batches.split(" and ")}
    assert found == {batch: rate(point) for batch, point in POINTS.items()}


@pytest.mark.slow
def test_the_model_is_that_of_the_benchmark():
    made = config()
    with torch.device("meta"):
        model = build(made["model"])
    backbone = model.denoiser.backbone
    assert sum(weight.numel() for weight in model.denoiser.parameters()) == 865_910_724
    norms = [part.num_groups for part in backbone.modules() if isinstance(part, torch.nn.GroupNorm)]
    assert set(norms) == {16}
    shape = {"model_channels": 320, "channel_mult": [1, 2, 4, 4], "attention_levels": [0, 1, 2], "head_channels": 64}
    assert {name: made["backbone"][name] for name in shape} == shape
    assert backbone.context_width == 1024
    assert isinstance(model.denoiser.prediction, VelocityPrediction)
    schedule = made["schedule"]
    assert schedule["_target_"].endswith("ScaledLinearSchedule")
    assert (schedule["start"], schedule["end"], schedule["steps"]) == (0.00085, 0.012, 1000)
    assert type(model.denoising_loss.criterion).__name__ == "L2"
    assert made["weighting"]["_target_"].endswith("ConstantWeighting")
    assert made["timestep_sampler"]["_target_"].endswith("UniformTimesteps")
    assert not made["timestep_sampler"]["stratified"], "each image its own"
    conditioner = made["conditioner"]
    assert (conditioner["layer"], conditioner["max_tokens"], conditioner["drop_rate"]) == (-2, 77, 0.0)
    assert "ViT-H-14" in conditioner["name"]
    assert made["data"]["moments"]["scale"] == 0.18215
    assert made["data"]["moments"]["normalized"] is False
    assert made["data"]["caption"]["fields"] == {"txt": 1}
    assert made["stage"]["diffusion"]["callbacks"]["ema"] is None
    assert (made["sampler"]["steps"], made["sampler"]["eta"], made["guidance"]["scale"]) == (50, 0.0, 8.0)
