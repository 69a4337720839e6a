"""What is logged of speed, by a clock that the test moves."""

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import Logger
from torch.utils.data import Dataset

from ldm.batch import Batch
from ldm.callback import throughput
from ldm.callback.checkpoints import Checkpoints, newest
from ldm.callback.throughput import Throughput
from ldm.callback.writer import CheckpointWriter
from ldm.data import loader
from ldm.data.bad_samples import BadSampleCounter
from ldm.data.loader import Loader
from tests.processes.test_ranks import connected
from tests.ranks import on_two_ranks

COMPUTING, WAITING, VALIDATING = 3.0, 1.0, 100.0
"""Seconds for a batch, for its data, and for a validation batch."""


class Clock:
    """A clock that moves only where the test says so."""

    now = 0.0

    def __call__(self):
        return self.now


class Batches(Dataset):
    """Four images a batch."""

    def __init__(self, clock, seconds):
        self.clock, self.seconds = clock, seconds

    def __len__(self):
        return 100

    def __getitem__(self, number):
        self.clock.now += self.seconds
        return Batch(["a"] * 4, {"moments": torch.zeros(4, 1)})


class Task(pl.LightningModule):
    """Whose steps take time; its first one much of it."""

    def __init__(self, clock):
        super().__init__()
        self.clock, self.weight, self.begun = clock, torch.nn.Parameter(torch.zeros(1)), False

    def training_step(self, batch, batch_idx):
        self.clock.now += COMPUTING if self.begun else 1000.0
        self.begun = True
        return self.weight.square().sum()

    def validation_step(self, batch, batch_idx):
        self.clock.now += VALIDATING

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


class Notes(Logger):
    """Keeps what is logged of speed."""

    name = version = "notes"

    def __init__(self):
        super().__init__()
        self.found = {}

    def log_metrics(self, metrics, step=None):
        metrics = {name: value for name, value in metrics.items() if name.startswith("throughput/")}
        if metrics:
            assert step not in self.found
            self.found[step] = metrics

    def log_hyperparams(self, params, *args):
        pass


def loaded(clock, seconds):
    return Loader(
        Batches(clock, seconds),
        batch_size=None,
        bad_samples=BadSampleCounter(0.0),
        device=torch.device("cpu"),
        samples=None,
    )


def fit(monkeypatch, folder, *, steps, accumulate=1, every=2, validate_every=1000):
    clock, notes = Clock(), Notes()
    for module in (throughput, loader):
        monkeypatch.setattr(module, "perf_counter", clock)
    trainer = pl.Trainer(
        max_steps=steps,
        max_epochs=-1,
        accelerator="cpu",
        logger=notes,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        limit_val_batches=1,
        val_check_interval=validate_every * accumulate,
        check_val_every_n_epoch=None,
        log_every_n_steps=every,
        accumulate_grad_batches=accumulate,
        callbacks=[Throughput(every), Checkpoints(folder, every_n_steps=2)],
        plugins=[CheckpointWriter()],
    )
    batches, val = loaded(clock, WAITING), loaded(clock, WAITING)
    trainer.fit(Task(clock), batches, val, ckpt_path=newest(folder), weights_only=True)
    return notes.found


@pytest.mark.parametrize("accumulate", [1, 3])
def test_images_and_waiting_are_counted_whatever_is_accumulated(monkeypatch, tmp_path, accumulate):
    found = fit(monkeypatch, tmp_path, steps=6, accumulate=accumulate)
    assert list(found) == [2, 4, 6], "optimiser steps made"
    for step in (4, 6):
        assert found[step]["throughput/images_per_second"] == pytest.approx(4 / (COMPUTING + WAITING))
        assert found[step]["throughput/data_wait"] == pytest.approx(WAITING / (COMPUTING + WAITING))
        assert found[step].keys() == {"throughput/images_per_second", "throughput/data_wait"}, "no memory of a CPU"
    assert found[2]["throughput/images_per_second"] > 4 / (COMPUTING + WAITING), "the first step does not count"


def test_validation_takes_no_time(monkeypatch, tmp_path):
    """The batch after it counts from the moment when it is there, so that its waiting does not."""
    found = fit(monkeypatch, tmp_path, steps=8, every=4, validate_every=3)
    images, seconds = 4 * 4, 4 * COMPUTING + 3 * WAITING
    assert found[8]["throughput/images_per_second"] == pytest.approx(images / seconds)
    assert found[8]["throughput/data_wait"] == pytest.approx(3 * WAITING / seconds)


def test_a_run_that_goes_on_counts_from_there(monkeypatch, tmp_path):
    fit(monkeypatch, tmp_path, steps=2)
    found = fit(monkeypatch, tmp_path, steps=6)
    assert list(found) == [4, 6]
    assert found[4]["throughput/images_per_second"] == pytest.approx(4 / COMPUTING), (
        "without the first step's 1000 seconds"
    )
    assert found[6]["throughput/images_per_second"] == pytest.approx(4 / (COMPUTING + WAITING))


def test_nothing_is_logged_where_nothing_is_to_be(monkeypatch, tmp_path):
    assert fit(monkeypatch, tmp_path, steps=4, every=0) == {}


def test_processes_count_all_images_and_the_longest_waiting():
    def work(rank):
        callback, notes = Throughput(1), Notes()
        trainer = connected()
        trainer.loggers = [notes]
        callback._images, callback._seconds, callback._waited = 80, 10.0, 1.0 + rank
        callback._log(trainer)
        (found,) = notes.found.values()
        assert found == {"throughput/images_per_second": 8.0, "throughput/data_wait": pytest.approx(0.2)}

    for code, output in on_two_ranks(work):
        assert code == 0, output


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_memory_of_a_gpu_is_logged():
    held = torch.zeros(2**28, device="cuda")
    callback, notes = Throughput(1), Notes()
    trainer = pl.Trainer(accelerator="gpu", devices=1, logger=notes, enable_checkpointing=False)
    callback._images, callback._seconds, callback._waited = 80, 10.0, 1.0
    callback._log(trainer)
    (found,) = notes.found.values()
    assert found["throughput/memory_gib"] >= held.nbytes / 2**30 == 1.0
