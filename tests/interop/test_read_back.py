"""Exported models are read back; of those that are not, the message says what they are, and what to give in their place."""

import pytest
import torch

from ldm import checkpoint
from ldm.config import build
from ldm.interop.conventions import betas_of, schedule_of_betas
from ldm.interop.export.diffusers import DiffusersFormat
from ldm.interop.export.program import export
from ldm.interop.reading import is_foreign, read_foreign
from tests.interop import pipelines
from tests.interop.test_compvis_checkpoint import written


@pytest.mark.parametrize("kind", ["label", "bert"])
def test_a_set_of_components_names_what_was_exported(tmp_path, kind, capsys):
    """By the reader and by what `sample.py` finds; the exporter has said so before."""
    file, _, request = written(tmp_path, kind)
    found = read_foreign(file, request)
    out = tmp_path / "out"
    export(found.config, found.weights, DiffusersFormat(), str(out), name="runs/mine")
    assert "Keep runs/mine: sample.py reads whole pipelines" in capsys.readouterr().out
    message = r"has components \(.*unet, vqvae\), but no model_index.json.* give the run or the file that was exported"
    with pytest.raises(ValueError, match=message):
        read_foreign(out)
    with pytest.raises(ValueError, match=message):
        checkpoint.read(checkpoint.find(out, (checkpoint.MODEL_FILE,)))
    assert checkpoint.read(out / "unet")[0]["_target_"] == "ldm.backbone.unet.UNet"


SCHEDULES = {
    "linear": {"_target_": "ldm.diffusion.schedule.LinearSchedule", "start": 0.0001, "end": 0.02, "steps": 1000},
    "short": {"_target_": "ldm.diffusion.schedule.LinearSchedule", "start": 0.001, "end": 0.1, "steps": 200},
    "cosine": {"_target_": "ldm.diffusion.schedule.CosineSchedule", "steps": 1000},
}


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("zero_terminal", [False, True])
def test_a_pipeline_with_another_schedule_is_read_back(tmp_path, name, zero_terminal):
    pipelines.stable_diffusion(tmp_path)
    found = read_foreign(tmp_path / "pipeline")
    schedule = SCHEDULES[name]
    if zero_terminal:
        schedule = {"_target_": "ldm.diffusion.schedule.ZeroTerminalSchedule", "schedule": schedule}
        found.config["denoiser"]["prediction"] = {"_target_": "ldm.diffusion.prediction.VelocityPrediction"}
    found.config["denoiser"]["schedule"] = schedule
    export(found.config, found.weights, DiffusersFormat(), str(tmp_path / "out"), name="mine")
    again = read_foreign(tmp_path / "out")
    assert again.config["denoiser"] == found.config["denoiser"]
    named = {key for key in found.weights if not key.endswith(("_extra_state", "statistics_count"))}
    assert all(torch.equal(again.weights[key], found.weights[key]) for key in named)


def test_betas_of_no_schedule_are_refused():
    betas = betas_of(build(SCHEDULES["cosine"] | {"offset": 0.1})).tolist()
    with pytest.raises(ValueError, match="the 1000 betas from .* are those of no schedule here"):
        schedule_of_betas(betas)


def test_a_folder_of_other_things_is_none_of_theirs(tmp_path):
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / "model.safetensors").write_text("")
    assert not is_foreign(tmp_path)
    assert not is_foreign(tmp_path / "absent")
