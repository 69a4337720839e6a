import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from ldm.callback import progress
from ldm.callback.checkpoints import Checkpoints, newest
from ldm.callback.progress import Progress


class Task(pl.LightningModule):
    """Logs a loss and a score for the bar."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def training_step(self, batch, batch_idx):
        loss = (self.weight - batch).square().mean()
        self.log("train/loss", loss, prog_bar=True)
        if batch == 13:
            raise ArithmeticError("13")
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val/score", 7.0, prog_bar=True)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.01)


def fit(folder, bar, *, steps, batches=12):
    """Train on the numbers below `batches`, two a step, with a validation after each step; go on from what is saved."""
    trainer = pl.Trainer(
        max_steps=steps,
        max_epochs=-1,
        accelerator="cpu",
        logger=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        val_check_interval=2,
        check_val_every_n_epoch=None,
        accumulate_grad_batches=2,
        callbacks=[bar, Checkpoints(folder, every_n_steps=2)],
    )
    numbers = torch.arange(float(batches))
    trainer.fit(Task(), DataLoader(numbers, 1), DataLoader(numbers[:1], 1), ckpt_path=newest(folder), weights_only=True)


def shown(capsys):
    """The first and the last that one bar showed, one after another in a line."""
    lines = capsys.readouterr().err.rstrip("\n").split("\r")[1:]
    assert all(line.startswith("training:") for line in lines), "no bar for validation"
    return lines[0], lines[-1]


def test_one_bar_counts_optimiser_steps_and_goes_on_where_training_does(tmp_path, capsys):
    fit(tmp_path, Progress(), steps=2)
    first, last = shown(capsys)
    assert " 0/2 " in first
    assert " 2/2 " in last
    assert "train/loss=" in last
    assert "val/score=7" in last
    fit(tmp_path, Progress(), steps=4)
    first, last = shown(capsys)
    assert " 2/4 " in first
    assert " 4/4 " in last


def test_a_bar_that_is_disabled_shows_nothing(tmp_path, capsys):
    hidden = Progress()
    hidden.disable()
    fit(tmp_path, hidden, steps=2)
    assert "training" not in capsys.readouterr().err


def test_an_error_begins_a_new_line(tmp_path, capsys):
    with pytest.raises(ArithmeticError):
        fit(tmp_path, Progress(), steps=8, batches=20)
    assert capsys.readouterr().err.endswith("\n")


def test_losses_are_read_only_where_the_bar_is_drawn(tmp_path, monkeypatch):
    """A GPU is waited for each time."""
    reads = []

    class Counted(Progress):
        def get_metrics(self, trainer, pl_module):
            reads.append(trainer.global_step)
            return super().get_metrics(trainer, pl_module)

    monkeypatch.setattr(progress, "SECONDS", 1e9)
    fit(tmp_path, Counted(), steps=4)
    assert reads == [4], "the last step alone"
