"""What is logged is numbered by optimiser steps made, whatever Lightning takes for a step."""

import csv
from functools import partial

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import CSVLogger
from torch.utils.data import DataLoader

from ldm.callback.checkpoints import Checkpoints, newest
from ldm.callback.curves import read_metrics
from ldm.callback.learning_rates import LearningRates, rates_of
from ldm.callback.steps import steps_made
from ldm.callback.writer import CheckpointWriter
from ldm.files.whole import set_aside
from ldm.logger.numbered import number_by


class Summing(pl.LightningModule):
    """A model that accumulates gradients by itself, and logs how many optimiser steps it has made."""

    def __init__(self, accumulate):
        super().__init__()
        self.accumulate, self.weight = accumulate, torch.nn.Parameter(torch.zeros(1))
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        self.manual_backward((self.weight - batch).square().sum())
        if (self.trainer.fit_loop.total_batch_idx + 1) % self.accumulate == 0:
            self.used = self.optimizers().param_groups[0]["lr"]
            self.optimizers().step()
            self.optimizers().zero_grad()
            self.lr_schedulers().step()
            self.log("train/used", self.used)
        self.log("train/made", float(self.global_step))

    def validation_step(self, batch, batch_idx):
        self.log("val/made", float(steps_made(self.trainer)))

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), 1.0)
        return [optimizer], [torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: step / 100)]


def trainer_of(folder, steps, accumulate):
    set_aside(folder / "logs" / "metrics.csv")
    logger = CSVLogger(folder, name="", version="logs", flush_logs_every_n_steps=1)
    trainer = pl.Trainer(
        max_steps=steps,
        max_epochs=-1,
        accelerator="cpu",
        logger=logger,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        val_check_interval=3 * accumulate,
        check_val_every_n_epoch=None,
        log_every_n_steps=2 * accumulate,
        callbacks=[Checkpoints(folder / "checkpoints", every_n_steps=1), LearningRates(every_n_steps=2)],
        plugins=[CheckpointWriter()],
    )
    number_by(logger, partial(steps_made, trainer))
    return trainer


@pytest.mark.filterwarnings("ignore:.*exists and is not empty")
@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("first", [6, 5, 3])
def test_optimiser_steps_are_counted_by_all_that_log_and_on_when_a_run_goes_on(tmp_path, accumulate, first):
    batches = DataLoader(torch.arange(100.0), 1)
    for steps in dict.fromkeys([first, 6]):
        trainer = trainer_of(tmp_path, steps, accumulate)
        last = newest(tmp_path / "checkpoints") if (tmp_path / "checkpoints").is_dir() else None
        trainer.fit(Summing(accumulate), batches, DataLoader(torch.zeros(1), 1), ckpt_path=last, weights_only=True)
    trainer.validate(trainer.lightning_module, DataLoader(torch.zeros(1), 1), verbose=False)
    found = read_metrics(tmp_path / "logs")
    assert found["train/made"] == [(2, 2), (4, 4), (6, 6)]
    assert found["val/made"] == [(3, 3), (6, 6)]
    assert found["lr-SGD"] == [(step, pytest.approx((step - 1) / 100)) for step in (2, 4, 6)], (
        "those of the first step are 0"
    )
    assert found["lr-SGD"] == [(step, pytest.approx(used)) for step, used in found["train/used"]]


def test_rates_of_several_optimizers_and_groups_have_names_of_their_own():
    weights = [torch.nn.Parameter(torch.zeros(1)) for _ in range(4)]
    optimizers = [
        torch.optim.SGD(weights[:1], 1.0),
        torch.optim.SGD([{"params": weights[1:2]}, {"params": weights[2:3], "lr": 3.0}], 2.0),
        torch.optim.Adam(weights[3:], 4.0),
    ]
    assert rates_of(optimizers) == {"lr-SGD": 1.0, "lr-SGD-1/pg1": 2.0, "lr-SGD-1/pg2": 3.0, "lr-Adam": 4.0}


def test_a_finished_model_is_measured_at_its_last_step(tmp_path):
    trainer = trainer_of(tmp_path, 6, 2)
    trainer.validate(Summing(2), DataLoader(torch.zeros(1), 1), verbose=False)
    with (tmp_path / "logs" / "metrics.csv").open() as lines:
        assert [row["step"] for row in csv.DictReader(lines)] == ["6"]
