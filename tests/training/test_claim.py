"""What a run may change when it goes on, and that two do not write into one folder."""

import json
import re
import shutil
from functools import cache

import pytest
from omegaconf import OmegaConf

from ldm.config import resolved
from ldm.training.claim import compare, run_output
from tests.conftest import forked
from tests.training.stages import composed, stages
from tests.training.test_run import TINY, same_weights


def settings(*overrides):
    return composed("experiment=txt2img", "debug=tiny", "trainer=cpu", *overrides)


@pytest.fixture
def run(tmp_path):
    """The folder of a run of two stages, both finished."""
    return claimed(tmp_path)


def claimed(folder, *overrides):
    for stage in ("autoencoder", "diffusion"):
        (folder / stage).mkdir(parents=True)
        (folder / stage / "results.json").write_text("{}")
    (folder / "config.yaml").write_text(written(overrides))
    return folder


@cache
def written(overrides):
    return OmegaConf.to_yaml(OmegaConf.create(resolved(settings(*overrides))))


def again(run, *overrides):
    config = settings(*overrides)
    return compare(run, resolved(config), list(stages(config, run).values()))


@pytest.mark.parametrize(
    ("overrides", "measured"),
    [
        ([], []),
        (["paths.data_dir=/moved", "paths.runs_dir=/elsewhere", "data.workers=3", "trainer.precision=bf16-mixed"], []),
        (
            ["stage.diffusion.callbacks.checkpoint.keep=7", "stage.diffusion.validate_every_n_steps=3", "logger=wandb"],
            [],
        ),
        (["tags=[a]", "stage.diffusion.callbacks.progress=null", "+stage.diffusion.trainer.log_every_n_steps=1"], []),
        (["metric=fid"], ["autoencoder", "diffusion"]),
        (["sampler=heun", "guidance.scale=3", "timestep_spacing=karras"], ["diffusion"]),
        (["stage.diffusion.callbacks.evaluation.final_images=20"], ["diffusion"]),
        (["data.val_images=10"], ["autoencoder", "diffusion"]),
    ],
)
def test_what_does_not_change_the_steps_made_is_free(run, overrides, measured):
    assert again(run, *overrides) == (measured, {})


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ("seed=1", "seed: 0 -> 1"),
        ("data.size=64", "data.size: 32 -> 64"),
        ("stage.diffusion.batch_size=4", "stage.diffusion.batch_size: 8 -> 4"),
        ("stage.diffusion.callbacks.ema.decay=0.5", "callbacks.ema.decay: 0.99 -> 0.5"),
        ("stage.diffusion.trainer.gradient_clip_val=2", "gradient_clip_val: 1.0 -> 2"),
        ("trainer.overfit_batches=1", "trainer.overfit_batches: 0 -> 1"),
        ("stage.diffusion.optimizer.lr=0.5", r"optimizer.lr: 0.001 -> 0.5"),
        ("stage.diffusion.trainer.max_steps=30", r"max_steps: 20 -> 30 \(under a learning rate that decays to the end"),
        ("stage.diffusion.trainer.max_steps=10", r"max_steps: 20 -> 10 \(a run cannot become shorter"),
        ("weighting=constant", "weighting._target_: .*P2Weighting -> .*ConstantWeighting"),
    ],
)
def test_what_does_is_refused_with_the_reason(run, override, reason):
    with pytest.raises(ValueError, match=reason):
        again(run, override)


def test_where_nothing_was_made_everything_may_change(run):
    """A run that failed at its first step, because of an option, goes on with another."""
    changes = ["conditioner.width=64", "data.size=64", "seed=3"]
    for stage in ("autoencoder", "diffusion"):
        with pytest.raises(ValueError, match="holds a run with other settings"):
            again(run, *changes)
        (run / stage / "results.json").unlink()
    assert again(run, *changes) == ((), {})
    (run / "diffusion" / "tokenizer.safetensors").touch()
    with pytest.raises(ValueError, match="holds a run with other settings"):
        again(run, *changes)


def test_options_of_a_stage_without_steps_may_change(run):
    changes = ["stage.diffusion.batch_size=4", "stage.diffusion.optimizer.lr=0.5", "stage.diffusion.trainer.max_steps=10",
               "stage.diffusion.trainer.accumulate_grad_batches=2"]  # fmt: skip
    (run / "diffusion" / "results.json").unlink()
    assert again(run, *changes) == ([], {})
    for other in ("stage.autoencoder.batch_size=4", "data.size=64", "stage.diffusion.captions_for_vocabulary=7"):
        with pytest.raises(ValueError, match=re.escape(other.partition("=")[0])):
            again(run, other)
    (run / "diffusion" / "checkpoints").mkdir()
    (run / "diffusion" / "checkpoints" / "step-00000002.ckpt").touch()
    with pytest.raises(ValueError, match="batch_size: 8 -> 4"):
        again(run, changes[0])


def test_a_finished_autoencoder_is_offered_to_the_run_of_another_name(run):
    offer = f"like name=tiny-2 (with autoencoder.ckpt={run} it takes over the finished autoencoder), or delete"
    with pytest.raises(ValueError, match=re.escape(offer)):
        again(run, "conditioner.width=64")
    (run / "autoencoder" / "results.json").unlink()
    with pytest.raises(ValueError, match="like name=tiny-2, or delete"):
        again(run, "conditioner.width=64")


def test_a_run_that_cannot_be_lengthened_is_offered_as_the_start_of_another(run):
    with pytest.raises(ValueError, match=re.escape(f"another name goes on from the model of this one by init={run})")):
        again(run, "stage.diffusion.trainer.max_steps=30")


def test_an_autoencoder_may_move_but_not_become_another(tmp_path):
    (tmp_path / "old").mkdir()
    run = claimed(tmp_path / "run", f"autoencoder.ckpt={tmp_path}/old")
    with pytest.raises(ValueError, match="it is still there, so this is another"):
        again(run, f"autoencoder.ckpt={tmp_path}/new")
    (tmp_path / "old").rmdir()
    again(run, f"autoencoder.ckpt={tmp_path}/new")


def test_what_a_later_stage_was_trained_on_is_not_lengthened(tmp_path):
    constant = "scheduler@stage.autoencoder.scheduler=constant"
    run = claimed(tmp_path, constant)
    with pytest.raises(ValueError, match=r"max_steps: 20 -> 30 \(diffusion was trained on it"):
        again(run, constant, "stage.autoencoder.trainer.max_steps=30")


@pytest.mark.e2e
def test_a_run_is_lengthened_and_measured_again(tiny_run, places, tmp_path):
    constant = "scheduler@stage.diffusion.scheduler=constant_with_warmup"
    options = [*TINY, f"autoencoder.ckpt={tiny_run}", constant, places[0], f"paths.runs_dir={tmp_path}"]
    forked(*options, "name=straight", "stage.diffusion.trainer.max_steps=14")
    forked(*options, "name=longer", "stage.diffusion.trainer.max_steps=10")
    shutil.copytree(tmp_path / "longer", tmp_path / "before")
    forked(*options, "name=longer", "stage.diffusion.trainer.max_steps=14")
    longer = tmp_path / "longer"
    assert same_weights(longer / "model.safetensors", tmp_path / "straight" / "model.safetensors")
    assert same_weights(longer / "model-1.safetensors", tmp_path / "before" / "model.safetensors")
    results = longer / "diffusion" / "results.json"
    assert json.loads(results.read_text())["steps"] == 14
    assert json.loads((longer / "diffusion" / "results-1.json").read_text())["steps"] == 10
    assert (longer / "config-1.yaml").read_text() == (tmp_path / "before" / "config.yaml").read_text()
    first = json.loads(results.read_text())
    evaluation = "stage.diffusion.callbacks.evaluation.final_images=6"
    assert "finished" in forked(*options, "name=longer", "stage.diffusion.trainer.max_steps=14", evaluation)
    second = json.loads(results.read_text())
    assert second["val/loss"] == first["val/loss"]
    assert second["eval/frechet_efficientnet"] != first["eval/frechet_efficientnet"]
    assert same_weights(longer / "model.safetensors", tmp_path / "straight" / "model.safetensors")


@pytest.mark.e2e
def test_a_folder_in_use_and_one_of_somebody_else_are_refused(tmp_path, places):
    options = [*TINY, places[0], f"paths.runs_dir={tmp_path}"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    text = forked(*options, "name=mine", ok=False)
    assert "holds what was not written by this program (notes.txt)" in text
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["notes.txt"]
    with run_output(tmp_path / "busy").lock():
        text = forked(*options, "name=busy", ok=False)
    assert "another process is writing into" in text
    assert "training:" not in text
