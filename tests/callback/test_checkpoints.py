import os
import signal

import pytest
import pytorch_lightning as pl
import torch

from ldm.callback.checkpoints import Checkpoints, newest, saved
from ldm.callback.signals import Preempted, Signals
from tests.callback import trainer

VALUES = [3.0, 1.0, 2.0, 0.5, 4.0]
"""Of the metric, at validations after steps 2, 4, 6, 8, 10."""


class Task(pl.LightningModule):
    def __init__(self, at=None):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.at = at or {}
        self.validations = 0

    def training_step(self, batch, batch_idx):
        if self.trainer.fit_loop.total_batch_idx in self.at:
            os.kill(os.getpid(), self.at[self.trainer.fit_loop.total_batch_idx])
        return (self.weight - batch).square().mean()

    def validation_step(self, batch, batch_idx):
        self.log("val/score", VALUES[self.validations])

    def on_validation_end(self):
        self.validations += 1

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def fit(folder, task, **options):
    with Signals() as signals:
        callback = Checkpoints(folder, **{"every_n_steps": 3, "signals": signals, **options})
        trainer.fit(task, [callback], steps=10, validate_every=4, batches=8)
    return callback


def step(path):
    return torch.load(path, weights_only=True)["global_step"]


@pytest.mark.parametrize(("keep", "kept"), [(1, [10]), (2, [9, 10]), (9, [3, 6, 9, 10]), (None, [3, 6, 9, 10])])
def test_the_newest_and_the_last_are_kept(tmp_path, keep, kept):
    fit(tmp_path, Task(), keep=keep)
    assert [path.name for path in saved(tmp_path)] == [f"step-{number:08d}.ckpt" for number in kept]
    assert [step(path) for path in saved(tmp_path)] == kept
    assert newest(tmp_path) == saved(tmp_path)[-1]


@pytest.mark.parametrize(("mode", "at"), [("min", 8), ("max", 10)])
def test_the_best_is_kept(tmp_path, mode, at):
    callback = fit(tmp_path, Task(), best="val/score", mode=mode)
    value = min(VALUES) if mode == "min" else max(VALUES)
    assert step(tmp_path / "best.ckpt") == at
    assert callback.best_value == value
    before = (tmp_path / "best.ckpt").stat().st_mtime_ns
    again = fit(tmp_path, Task(), best="val/score", mode=mode)
    assert again.best_value == value, "a run that continues knows the best before it"
    assert (tmp_path / "best.ckpt").stat().st_mtime_ns == before


def test_a_metric_that_is_not_measured_is_named(tmp_path):
    with pytest.raises(ValueError, match="best checkpoint by 'eval/fid' cannot be found; validation logs val/score"):
        fit(tmp_path, Task(), best="eval/fid")


def test_usr1_saves_and_goes_on(tmp_path):
    """In the first half of step 5 (batch 8 of two a step): saved when the step is whole."""
    fit(tmp_path, Task({8: signal.SIGUSR1}), keep=9)
    assert [step(path) for path in saved(tmp_path)] == [3, 5, 6, 9, 10]


def test_term_saves_and_ends(tmp_path):
    with pytest.raises(Preempted, match="stopped by SIGTERM at step 5, which is saved"):
        fit(tmp_path, Task({8: signal.SIGTERM}), keep=9)
    assert [step(path) for path in saved(tmp_path)] == [3, 5]
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_signal_while_saving_is_not_forgotten(tmp_path, monkeypatch):
    save = Checkpoints._save

    def slow(self, trainer, *rest):
        os.kill(os.getpid(), signal.SIGTERM)
        save(self, trainer, *rest)

    monkeypatch.setattr(Checkpoints, "_save", slow)
    with pytest.raises(Preempted, match="step 4,"):
        fit(tmp_path, Task())


def test_nan_is_never_the_best(tmp_path, monkeypatch):
    monkeypatch.setattr("tests.callback.test_checkpoints.VALUES", [float("nan"), 3.0, 2.0, float("nan"), 4.0])
    assert fit(tmp_path, Task(), best="val/score").best_value == 2.0
    assert step(tmp_path / "best.ckpt") == 6


def test_a_broken_file_does_not_push_out_whole_ones(tmp_path):
    (tmp_path / "step-00000100.ckpt").write_bytes(b"half")
    fit(tmp_path, Task())
    assert step(newest(tmp_path)) == 10


def test_half_a_file_is_never_picked(tmp_path):
    assert newest(tmp_path) is None
    fit(tmp_path, Task(), keep=2)
    last = saved(tmp_path)[-1]
    last.write_bytes(last.read_bytes()[:-100])
    assert step(newest(tmp_path)) == 9
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("count", [1, 2])
def test_where_only_cut_files_are_left_nothing_begins_anew_in_silence(tmp_path, count):
    for number in range(count):
        (tmp_path / f"step-0000000{number}.ckpt").write_bytes(b"half")
    with pytest.raises(
        ValueError, match=r"is not a whole checkpoint, and there is no other.*delete (it|all 2 of them) to"
    ):
        newest(tmp_path)


def test_what_a_killed_process_left_half_written_is_cleared_away(tmp_path):
    (tmp_path / ".step-00000004.ckpt.part").write_bytes(b"half")
    (tmp_path / "other.part").write_bytes(b"somebody's")
    fit(tmp_path, Task())
    assert [path.name for path in tmp_path.iterdir() if path.suffix == ".part"] == ["other.part"]


@pytest.mark.parametrize("options", [{"every_n_steps": 0}, {"keep": 0}, {"mode": "least"}])
def test_odd_options_are_refused(tmp_path, options):
    with pytest.raises(ValueError, match="checkpoints are written every|'min' or its 'max'"):
        Checkpoints(tmp_path, **{"every_n_steps": 1, **options})
