"""Averages of any length from snapshots of two: on random walks, and of a whole run."""

import shutil

import pytest
import torch

from ldm.checkpoint import load, read
from ldm.ema.average import FOLDER, average, combine
from ldm.ema.power_function import Profile, decay_at, gamma_of, match
from ldm.ema.snapshot import read_snapshots, write_snapshot
from tests.conftest import forked
from tests.e2e.test_resume import train

STEPS = 480


@pytest.fixture(scope="module")
def walk():
    """Weights at all steps, `(STEPS, 5000)`: a random walk that begins far from zero."""
    generator = torch.Generator().manual_seed(0)
    start = 5 * STEPS**0.5 * torch.randn(5000, generator=generator)
    return start + torch.randn(STEPS, 5000, generator=generator).cumsum(0)


def averages(walk, length):
    """After each step, by the recursion."""
    average = walk[0].clone()
    for step, weights in enumerate(walk, start=1):
        average.lerp_(weights, 1 - decay_at(gamma_of(length), step))
        yield step, average


def last(walk, length):
    return [average for _, average in averages(walk, length)][-1]


@pytest.fixture(scope="module", params=["float32", "float16"])
def written(walk, request, tmp_path_factory):
    """A folder with 24 snapshots of two lengths, and their dtype."""
    folder = tmp_path_factory.mktemp("snapshots")
    for length in (0.05, 0.1):
        for step, weights in averages(walk, length):
            if step % (STEPS // 24) == 0:
                write_snapshot(folder, step, length, weights={"weight": weights}, dtype=request.param)
    return folder, request.param


@pytest.mark.parametrize(
    ("length", "error"),
    [(0.05, 1e-6), (0.1, 1e-6), (0.06, 1e-4), (0.075, 1e-4), (0.15, 2e-4), (0.03, 2e-3), (0.2, 2e-3)],
)
def test_an_average_made_afterwards_is_the_one_that_would_have_been_kept(walk, written, length, error):
    """Up to a small share of how far the weights went; snapshots in fp16 add what their rounding is."""
    folder, dtype = written
    snapshots = read_snapshots(folder)
    assert len(snapshots) == 48
    found = match([Profile(gamma_of(s.length), s.step) for s in snapshots], Profile(gamma_of(length), STEPS))
    (sums,) = combine(snapshots, [found.coefficients.tolist()])
    rounding = 0.0 if dtype == "float32" else 0.02 if length == 0.03 else 3e-3
    distance = (walk[-1] - walk[0]).norm()
    assert (sums["weight"] - last(walk, length)).norm() / distance < error + rounding


OPTIONS = [
    "stage.diffusion.callbacks.power_ema.lengths=[0.05,0.1]",
    "stage.diffusion.callbacks.power_ema.every_n_steps=3",
]


@pytest.fixture(scope="module")
def run(tiny_run, places, tmp_path_factory):
    """A run of stage 2 with averages, of 20 steps of two batches."""
    folder = tmp_path_factory.mktemp("averaged")
    train(folder, "", places, *OPTIONS, f"autoencoder.ckpt={tiny_run}")
    return folder / "x"


@pytest.mark.e2e
def test_a_run_leaves_snapshots_also_where_it_was_killed(run, tiny_run, places, tmp_path):
    expected = [(step, length) for step in (3, 6, 9, 12, 15, 18, 20) for length in (0.05, 0.1)]
    options = [*OPTIONS, f"autoencoder.ckpt={tiny_run}"]
    train(tmp_path, "diffusion/21/SIGKILL", places, *options, ends=-9)  # in step 11, after the checkpoint of step 8
    for snapshot in read_snapshots(tmp_path / "x" / FOLDER)[-2:]:
        assert snapshot.step == 9
        snapshot.file.unlink()
    train(tmp_path, "", places, *options)
    ours, theirs = (read_snapshots(folder / FOLDER) for folder in (tmp_path / "x", run))
    assert [(found.step, found.length) for found in theirs] == expected
    for mine, other in zip(ours, theirs, strict=True):
        assert mine[1:] == other[1:]
        weights = dict(other.tensors())
        assert all(torch.equal(tensor, weights.pop(name)) for name, tensor in mine.tensors())
        assert not weights


def ema(*options, ok=True):
    return forked("-m", "ldm.ema", *options, ok=ok)


@pytest.mark.e2e
def test_a_finished_model_with_averages_of_other_lengths(run, tmp_path):
    text = ema(f"run={run}", "length=[0.05,0.075]")
    assert f"{run}/ema-0.075.safetensors: length 0.075 at step 20 from 14 snapshots, its profile matched to 1." in text
    assert "ema-0.05.safetensors: length 0.05 at step 20 from 14 snapshots, its profile matched to 0.00%" in text
    assert f"next: python sample.py ckpt={run}/ema-0.075.safetensors" in text
    config, model = read(run / "model.safetensors")
    same, tracked = read(run / "ema-0.05.safetensors")
    assert same == config
    assert tracked.keys() == model.keys()
    (kept,) = (dict(found.tensors()) for found in read_snapshots(run / FOLDER) if found[1:] == (20, 0.05))
    assert {name for name in model if not torch.equal(model[name], tracked[name])} <= kept.keys()
    for name, tensor in kept.items():
        torch.testing.assert_close(tracked[name], tensor, atol=1e-5, rtol=1e-5)
    between = read(run / "ema-0.075.safetensors")[1]
    name = "denoiser.backbone.conv_in.weight"
    assert not torch.equal(between[name], tracked[name])
    assert not torch.equal(between[name], model[name])
    assert load(run / "ema-0.075.safetensors").sample(prompts=["a red heart"]).isfinite().all()
    prompt = ["prompt=a red heart", "n=1", f"out={tmp_path}", "sampler.steps=3", "device=cpu"]
    assert "1 image" in forked("sample.py", f"ckpt={run}/ema-0.075.safetensors", *prompt)


@pytest.mark.e2e
def test_the_average_as_it_was_at_an_earlier_step(run, tmp_path):
    text = ema(f"run={run}", "length=0.1", "step=12", f"out={tmp_path}")
    assert "ema-0.1-step-00000012.safetensors: length 0.1 at step 12 from 8 snapshots" in text
    made = read(tmp_path / "ema-0.1-step-00000012.safetensors")[1]
    (kept,) = (dict(found.tensors()) for found in read_snapshots(run / FOLDER) if found[1:] == (12, 0.1))
    for name, tensor in kept.items():
        torch.testing.assert_close(made[name], tensor, atol=1e-5, rtol=1e-5)


@pytest.mark.e2e
def test_a_poor_match_is_called_one(run, tmp_path):
    assert "lengths between those of the snapshots" in ema(f"run={run}", "length=0.005", f"out={tmp_path}")


@pytest.mark.e2e
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["length=0.3"], "lies between 0 and 0.2886751, where all steps weigh the same; got 0.3"),
        (["length=long"], "length is a number or a list of numbers"),
        (["length=[0.1,true]"], "length is a number or a list of numbers"),
        (["length=nan"], "length is a number or a list of numbers"),
        (["length=0.1", "step=1.5"], "step=1.5 cannot be; give a whole number, at least 1, or null (the last)"),
        (["length=0.1", f"out={__file__}"], "is a file; choose another"),
        (["length=0.1", "step=13"], "no snapshot of step 13; the last are of 3, 6, 9, 12, 15, 18, 20"),
        ([], "the option length has no value"),
    ],
)
def test_mistakes_end_with_a_clear_message(run, options, message):
    text = ema(f"run={run}", *options, ok=False)
    assert message in text
    assert "Traceback" not in text


@pytest.mark.e2e
def test_only_files_that_were_written_as_the_same_average_are_replaced(run, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "other.txt").write_text("may stay")
    average(run, [0.1], step=12, out=out)
    file = out / "ema-0.1-step-00000012.safetensors"
    first = file.read_bytes()
    average(run, [0.1], step=12, out=out)
    assert file.stat().st_size == len(first)
    (tmp_path / "moved").symlink_to(run)
    average(tmp_path / "moved", [0.1], step=12, out=out)
    for name, content in (("ema-0.05.safetensors", b"mine"), ("ema-0.07.safetensors", first)):
        (out / name).write_bytes(content)
        length = float(name.removeprefix("ema-").removesuffix(".safetensors"))
        with pytest.raises(
            ValueError, match=rf"not written by this program \({name}\); nothing was changed.*like out="
        ):
            average(run, [0.1, length], out=out)
        assert (out / name).read_bytes() == content
    assert not (out / "ema-0.1.safetensors").exists()


@pytest.mark.e2e
def test_an_average_that_is_not_finite_is_not_written(run, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    broken = read_snapshots(copy / FOLDER)[-1]
    weights = {name: tensor * torch.nan for name, tensor in broken.tensors()}
    write_snapshot(copy / FOLDER, broken.step, broken.length, weights=weights, dtype="float32")
    with pytest.raises(ValueError, match="is not finite, as a snapshot holds NaN or infinity.*choose an earlier step="):
        average(copy, [0.1])
    assert not list(copy.glob("ema-0.1.*"))


@pytest.mark.e2e
def test_runs_without_snapshots_or_end_get_advice(run, tiny_run, tmp_path):
    text = ema(f"run={tiny_run}", "length=0.1", ok=False)
    assert "they are written while a run trains with 'stage.diffusion.callbacks.power_ema.lengths=[0.05,0.1]'" in text
    assert "there is no folder run=/nowhere" in ema("run=/nowhere", "length=0.1", ok=False)
    shutil.copytree(run / FOLDER, tmp_path / FOLDER)
    assert "has no model.safetensors, so the run has not ended" in ema(f"run={tmp_path}", "length=0.1", ok=False)
    file = read_snapshots(tmp_path / FOLDER)[0].file
    file.write_bytes(file.read_bytes()[:1000])
    assert "is not a snapshot of averaged weights" in ema(f"run={tmp_path}", "length=0.1", ok=False)


@pytest.mark.e2e
def test_help():
    text = ema("--help")
    assert "python -m ldm.ema run=runs/txt2img length=0.075" in text
    assert "length=???" in text
