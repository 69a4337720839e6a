"""The benchmarks run; what they measure is for people to read."""

import json
import re
import subprocess
import sys

import pytest

from ldm.config import build, compose
from tests.benchmarks import first_light, latents, loader, objectives, peer, startup, threads, toolbox
from tests.conftest import ended


def run_forked(arguments, *, check, **_):
    """Run a Python program as `subprocess.run` does, in a fork."""
    assert arguments[0] == sys.executable
    code, text = ended(*arguments[1:])
    assert not (check and code), text[-8000:]
    return subprocess.CompletedProcess(arguments, code, text, "")


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # webdataset's reader leaves shards open
def test_loader(tmp_path, capsys):
    loader.compare(tmp_path / "x", "small", 320, (16, 16), 16, "png", rounds=1)
    text = capsys.readouterr().out
    assert "plain loop" in text
    assert "ours, 2 workers" in text
    assert "webdataset, 2 workers" in text


@pytest.mark.e2e
def test_latents(tmp_path, capsys):
    latents.measure("small", tmp_path, ["debug=tiny"], steps=1)
    assert "x as long as one from latents" in capsys.readouterr().out


@pytest.mark.e2e
def test_startup(monkeypatch):
    monkeypatch.setattr(startup, "PROGRAMS", ("-c 'import ldm'",))
    assert startup.seconds(["-c", "import ldm, sys; assert not {'torch', 'hydra'} & sys.modules.keys()"]) > 0
    assert startup.first_step("debug=tiny", "trainer=cpu") > 0


def test_peer(capsys):
    peer.compare(peer.SHAPES["tiny"], 2, device="cpu", precision="fp32", mode=None, rounds=1)
    text = capsys.readouterr().out
    assert "2 images, 0." in text
    assert "diffusers" in text


@pytest.mark.e2e
def test_first_light(tmp_path, monkeypatch):
    monkeypatch.setattr(subprocess, "run", run_forked)
    first_light.light(tmp_path, ["peer", "batches"], first_light.TINY)
    report = (tmp_path / "report.md").read_text()
    assert report.count("[exit 0, ") == 1
    assert "## batches" in report
    assert "[exit 1, " in report, "there is no run of which pictures could be made"


@pytest.mark.e2e
@pytest.mark.long
def test_first_light_on_training_steps(tmp_path, monkeypatch):
    monkeypatch.setattr(subprocess, "run", run_forked)
    first_light.light(tmp_path, ["unet"], first_light.TINY)
    report = (tmp_path / "report.md").read_text()
    assert report.count("[exit 0, ") == 4
    assert report.count("measured: predicted") == 8, "time and memory of four steps"


@pytest.mark.e2e
def test_threads():
    assert threads.measure(None, 1, busy=False) > 0
    assert threads.measure({"OMP_WAIT_POLICY": "passive"}, 1, busy=True) > 0


@pytest.mark.parametrize("overrides", toolbox.GUIDANCE.values(), ids=list(toolbox.GUIDANCE))
def test_each_kind_of_guidance(overrides):
    compose("sample", ["ckpt=none", *overrides.split()])


@pytest.mark.slow
@pytest.mark.parametrize("overrides", toolbox.TRAINING.values(), ids=toolbox.TRAINING)
def test_each_way_to_train_builds_with_the_settings_of_the_study(overrides):
    config = compose("train", ["experiment=txt2img", *toolbox.studied(overrides.split())])
    assert config.backbone.model_channels == 64
    assert config.timestep_sampler._target_.endswith("UniformTimesteps") != ("timestep_sampler=" in overrides)
    build(config.model)


@pytest.mark.slow
@pytest.mark.parametrize("overrides", objectives.OBJECTIVES.values(), ids=list(objectives.OBJECTIVES))
def test_each_objective_builds(overrides):
    stages = [*objectives.SECOND_STAGE, "autoencoder.ckpt=none"]
    config = compose("train", ["experiment=txt2img", *objectives.DATA, *stages, *overrides.split()])
    assert list(config.stage) == ["diffusion"]
    build(config.model)


@pytest.mark.e2e
def test_objectives(tmp_path, capsys, monkeypatch):
    """Two of them, with networks that learn nothing; the same command again trains nothing again."""
    monkeypatch.setattr(subprocess, "run", run_forked)
    few = [
        "--runs",
        str(tmp_path),
        "--steps",
        "2",
        "--first-steps",
        "2",
        "--objectives",
        "2",
        "--debug",
        "trainer=cpu",
        f"paths.data_dir={tmp_path}",
    ]
    objectives.main(few)
    text = capsys.readouterr().out
    assert all(f"| {title} |" in text for title in list(objectives.OBJECTIVES)[:2])
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/diffusion/results.json")}
    assert len(before) == 2
    objectives.main(few)
    assert capsys.readouterr().out == text
    assert {path: path.stat().st_mtime_ns for path in before} == before


@pytest.mark.e2e
def test_toolbox(tmp_path, capsys, monkeypatch):
    """A part of the study, with networks that learn nothing; the same command again computes nothing again."""
    monkeypatch.setattr(subprocess, "run", run_forked)
    monkeypatch.setattr(toolbox, "TRAINING", dict(list(toolbox.TRAINING.items())[:1]))
    monkeypatch.setattr(toolbox, "SAMPLERS", ("ddim", "heun"))
    monkeypatch.setattr(toolbox, "SLOW", ("ddim",))
    kinds = ("none", "classifier-free 2", "autoguidance 2", "classifier 1")
    monkeypatch.setattr(toolbox, "GUIDANCE", {name: toolbox.GUIDANCE[name] for name in kinds})
    arguments = f"--runs {tmp_path} --steps 20 --calls 2 4 --plot {tmp_path / 'study.png'} --debug".split()
    toolbox.main(arguments)
    text = capsys.readouterr().out
    assert all(f"| {kind} |" in text for kind in kinds)
    assert "| heun |" in text
    assert (tmp_path / "study.png").is_file()
    file = tmp_path / "study" / "guidance.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "none": [0.123, 4567.0]}))
    toolbox.main(arguments)
    assert capsys.readouterr().out == re.sub(r"\| none \|.*", "| none | 0.123 | 4567 |", text)
