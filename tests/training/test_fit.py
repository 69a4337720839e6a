"""How a stage ends: what is there after a failure, and what the same command then does."""

import json
import shutil

import pytest
import torch

from ldm.checkpoint import read
from tests.conftest import forked

TINY = ["train.py", "experiment=txt2img", "debug=tiny", "trainer=cpu"]


@pytest.fixture
def unmeasured(tiny_run, places, tmp_path):
    """A finished run whose last validation failed; and how to go on with it."""
    run = tmp_path / "runs" / "tiny"
    shutil.copytree(tiny_run, run)
    (run / "diffusion" / "results.json").unlink()
    return run, [*TINY, places[0], f"paths.runs_dir={tmp_path / 'runs'}"]


@pytest.mark.e2e
@pytest.mark.parametrize("left", ["step-00000020.ckpt", "step-00000015.ckpt", "nothing"])
def test_a_finished_model_is_measured_and_never_trained_anew(unmeasured, tiny_run, left):
    """Whatever checkpoints are left: where that of the last step is gone, the model itself is what is measured."""
    run, command = unmeasured
    for path in (run / "diffusion" / "checkpoints").glob("*.ckpt"):
        if path.name > left or left == "nothing":
            path.unlink()
    shutil.rmtree(run / "diffusion" / "pictures")
    text = forked(*command)
    assert ("measuring" in text) == (left != "step-00000020.ckpt")
    ours, theirs = (read(folder / "model.safetensors")[1] for folder in (run, tiny_run))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert (run / "diffusion" / "pictures" / "samples-00000020.png").is_file()
    now, before = (json.loads((folder / "diffusion" / "results.json").read_text()) for folder in (run, tiny_run))
    assert now == pytest.approx(before)
    assert now["seconds"] == before["seconds"] > 0, "the time of the training, not of the measurement"


@pytest.mark.e2e
def test_a_training_that_diverges_ends_with_what_to_try(tiny_run, places, tmp_path):
    options = [f"autoencoder.ckpt={tiny_run}", f"paths.runs_dir={tmp_path}", "trainer.precision=bf16-mixed", places[0]]
    huge = ["stage.diffusion.optimizer.lr=1e20", "stage.diffusion.trainer.gradient_clip_val=null", "name=huge"]
    text = forked(*TINY, *options, *huge, ok=False)
    assert "error: the training diverged at step 2: the loss is inf or nan; there is no checkpoint from before" in text
    assert "trainer.precision=32-true (now bf16-mixed), with which the same command goes on" in text
    assert "a lower stage.diffusion.optimizer.lr (now 1e+20)" in text
    assert "stage.diffusion.trainer.gradient_clip_val=1.0 (now null)" in text
    assert "name=huge-2" in text
    assert "Traceback" not in text
    assert not list((tmp_path / "huge").rglob("*.ckpt"))
    assert not (tmp_path / "huge" / "model.safetensors").exists()


@pytest.mark.e2e
def test_a_cut_checkpoint_is_not_taken_for_none(unmeasured):
    run, command = unmeasured
    (run / "model.safetensors").unlink()
    paths = sorted((run / "diffusion" / "checkpoints").glob("*.ckpt"))
    for path in paths:
        path.write_bytes(path.read_bytes()[:1000])
    text = forked(*command, ok=False)
    assert f"error: {paths[-1]} is not a whole checkpoint, and there is no other to go on from" in text
    assert "delete all 3 of them to begin this stage anew" in text
