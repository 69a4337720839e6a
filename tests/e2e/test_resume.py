"""A run that is ended at any moment goes on so that nobody can tell: steps, samples, losses, weights."""

import json

import pytest
import torch

from ldm.checkpoint import read
from tests.conftest import ended

pytestmark = pytest.mark.e2e

SMALL = [
    "experiment=txt2img", "debug=tiny", "trainer=cpu", "name=x",
    "stage.autoencoder.batch_size=16", "stage.autoencoder.trainer.accumulate_grad_batches=2",
    "stage.diffusion.batch_size=16", "stage.diffusion.trainer.accumulate_grad_batches=2",
    "stage.autoencoder.callbacks.checkpoint.every_n_steps=4", "stage.diffusion.callbacks.checkpoint.every_n_steps=4",
    "data.cache_latents=false", "data.crop=random", "data.flip=true", "data.source.val_fraction=0.13",
    "data.source.samples_per_shard=10", "+data.streams=2", "+data.window=10",
]  # fmt: skip
"""Epochs of 10 steps, so that they end in the middle of both stages of 20; and 25 images for validation, an odd number."""


def train(folder, moment, places, *options, ends=0):
    arguments = [str(folder / "record.jsonl"), moment, *SMALL, f"paths.runs_dir={folder}", places[0], *options]
    code, text = ended("-m", "tests.recorded", *arguments)
    assert code == ends, text[-9000:]
    return text


def steps(folder):
    """stage and step -> what each of its batches was; of batches that were made twice, the last."""
    found = {}
    for line in (folder / "record.jsonl").read_text().splitlines():
        entry = json.loads(line)
        found.setdefault((entry["stage"], entry["step"]), []).append(entry)
    return {place: [(entry["keys"], entry["loss"]) for entry in entries[-2:]] for place, entries in found.items()}


def samples(folder):
    return {place: sorted(key for keys, _ in batches for key in keys) for place, batches in steps(folder).items()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory, places):
    """The uninterrupted run."""
    folder = tmp_path_factory.mktemp("whole")
    train(folder, "", places)
    found = steps(folder)
    assert len(found) == 40
    assert all(len(batches) == 2 for batches in found.values())
    for stage in ("autoencoder", "diffusion"):
        epoch = [key for step in range(10) for keys, _ in found[stage, step] for key in keys]
        assert len(set(epoch)) == 160, "no sample twice in an epoch"
    return folder


def test_a_run_that_is_killed_again_and_again(whole, places, tmp_path):
    """In stage 1 inside accumulation; while a checkpoint is written; in stage 2; by SIGTERM; each time it goes on."""
    train(tmp_path, "autoencoder/13/SIGKILL", places, ends=-9)  # in step 6, after the checkpoint of step 4
    checkpoints = tmp_path / "x" / "autoencoder" / "checkpoints"
    assert [path.name for path in checkpoints.glob("*")] == ["step-00000004.ckpt"]
    train(tmp_path, "autoencoder/save/SIGKILL", places, ends=-9)
    assert (checkpoints / ".step-00000008.ckpt.part").is_file(), "beside its place, not in a temporary folder"
    assert not (checkpoints / "step-00000008.ckpt").exists()
    (checkpoints / "step-00000007.ckpt").write_bytes(b"half a checkpoint, by somebody's copying")
    text = train(tmp_path, "diffusion/5/SIGKILL", places, ends=-9)  # before the first checkpoint
    assert "continuing autoencoder" in text
    assert "not a whole checkpoint" in text
    train(tmp_path, "diffusion/21/SIGKILL", places, ends=-9)  # in step 10, at the end of the epoch
    text = train(
        tmp_path, "diffusion/8/SIGTERM", places, "data.workers=2", ends=143
    )  # inside step 12, which is finished and saved
    assert "stopped by SIGTERM at step 13" in text
    kept = [path.name for path in (tmp_path / "x" / "diffusion" / "checkpoints").glob("*.ckpt")]
    assert sorted(kept) == [f"step-{number:08d}.ckpt" for number in (8, 12, 13)], "the newest three"
    text = train(tmp_path, "", places, "data.workers=2")
    assert "continuing diffusion" in text
    assert "ing autoencoder" not in text
    assert steps(tmp_path) == steps(whole)
    shards = [json.loads(line) for line in (tmp_path / "record.jsonl.read").read_text().splitlines()]
    assert len(shards[0]) == 17, "to begin with all captions are looked at"
    assert max(map(len, shards[1:])) <= 6, "to go on, the two streams' windows over at most three shards each"
    for name in ("autoencoder.safetensors", "model.safetensors"):
        ours, theirs = (read(folder / "x" / name)[1] for folder in (tmp_path, whole))
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours), name


def test_another_number_of_ranks_sees_the_same_samples(whole, places, tmp_path):
    """One rank until it is killed in stage 1, then two with workers, killed in stage 2, then one again."""
    two = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "data.workers=1"]
    train(tmp_path, "autoencoder/13/SIGKILL", places, ends=-9)
    train(tmp_path, "diffusion/13/SIGTERM", places, *two, ends=143)
    train(tmp_path, "", places)
    found = {}
    for line in (tmp_path / "record.jsonl").read_text().splitlines():
        entry = json.loads(line)
        found.setdefault((entry["stage"], entry["step"]), []).extend(entry["keys"])
    expected = samples(whole)
    assert found.keys() == expected.keys()
    for place, keys in found.items():
        assert sorted(set(keys)) == expected[place], place


def test_a_batch_that_is_learned_by_heart_is_the_same_after_a_kill(tiny_run, places, tmp_path):
    """Two steps of two batches each, in turn: also after a kill in the second of them, three steps after a checkpoint."""
    few = ["trainer.overfit_batches=4", f"autoencoder.ckpt={tiny_run}", "stage.diffusion.trainer.max_steps=8"]
    few += ["stage.diffusion.callbacks.checkpoint.every_n_steps=3", "callbacks@stage.diffusion.callbacks=none"]
    train(tmp_path, "diffusion/11/SIGKILL", places, *few, ends=-9)
    assert "runs without the callbacks reconstructions, evaluation" in train(tmp_path, "", places, *few)
    found = [[keys for keys, _ in batches] for _, batches in sorted(steps(tmp_path).items())]
    assert len(found) == 8
    assert found == [found[0], found[1]] * 4
    assert len({key for batches in found for keys in batches for key in keys}) == 32
