"""What is drawn of a run while it trains."""

import csv
import os
from types import SimpleNamespace

import pytorch_lightning as pl
import torch
from PIL import Image
from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.trainer.states import TrainerFn
from torch.utils.data import DataLoader

from ldm.callback.curves import Curves, _columns, plot_curves, read_metrics

PANELS = {"loss": ("train/loss",), "loss by noise level": ("val/loss", "val/loss_t0.5"), "PSNR in dB": ("val/psnr",)}


class Task(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def training_step(self, batch, batch_idx):
        loss = (self.weight - batch).square().mean()
        self.log("train/loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val/loss", float(self.global_step))
        self.log("val/loss_t0.5", -float(self.global_step))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.01)


def written(folder, rows, name="metrics.csv"):
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / name).open("w", newline="") as file:
        writer = csv.DictWriter(file, sorted({key for row in rows for key in row}))
        writer.writeheader()
        writer.writerows(rows)


def test_what_was_logged_is_drawn_at_each_validation_that_of_the_moment_too(tmp_path, monkeypatch):
    seen = []

    def plotted(run, panels):
        seen.append((run, panels, read_metrics(run / "stage" / "logs")))
        return plot_curves(run, panels)

    monkeypatch.setattr("ldm.callback.curves.plot_curves", plotted)
    monkeypatch.setattr("ldm.callback.curves.SHARE", float("inf"))
    trainer = pl.Trainer(
        max_steps=6,
        accelerator="cpu",
        logger=CSVLogger(tmp_path / "stage", name="", version="logs", flush_logs_every_n_steps=1000),
        enable_progress_bar=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        log_every_n_steps=1,
        val_check_interval=2,
        check_val_every_n_epoch=None,
        callbacks=[Curves(tmp_path, {"earlier": PANELS, "stage": PANELS})],
    )
    numbers = torch.arange(20.0)
    task = Task()
    trainer.fit(task, DataLoader(numbers, 1), DataLoader(numbers[:1], 1))
    assert [metrics["val/loss"][-1][1] for _, _, metrics in seen] == [2, 4, 6]
    assert all(len(metrics["train/loss"]) == metrics["val/loss"][-1][1] for _, _, metrics in seen)
    assert (tmp_path / "curves.png").is_file()
    trainer.validate(task, DataLoader(numbers[:1], 1), verbose=False)
    assert len(seen) == 3, "the report draws what the end of a run has logged"


def test_drawing_takes_no_more_than_a_share_of_the_time(tmp_path, monkeypatch):
    """Of validations every 10 s, with drawings of 3 s, those are drawn that are 60 s after the last drawing, or later."""
    clock, drawn = [0.0], []

    def plotted(run, panels):
        drawn.append(clock[0])
        clock[0] += 3

    monkeypatch.setattr("ldm.callback.curves.time.monotonic", lambda: clock[0])
    monkeypatch.setattr("ldm.callback.curves.plot_curves", plotted)
    trainer = SimpleNamespace(
        is_global_zero=True, sanity_checking=False, loggers=[], state=SimpleNamespace(fn=TrainerFn.FITTING)
    )
    curves = Curves(tmp_path, {})
    while clock[0] < 250:
        clock[0] += 10
        curves.on_validation_end(trainer, Task())
    assert drawn == [10, 73, 136, 199]


def test_each_stage_begins_a_row_and_what_was_not_logged_has_no_panel(tmp_path):
    stages = {"first": {f"panel {number}": (f"/a{number}",) for number in range(11)}, "second": PANELS}

    def height():
        with Image.open(plot_curves(tmp_path, stages)) as picture:
            return picture.height

    row = height()
    written(tmp_path / "first" / "logs", [{"step": 1, **{f"x/a{number}": 1.0 for number in range(5)}}])
    assert height() == row
    written(tmp_path / "first" / "logs", [{"step": 1, **{f"x/a{number}": 1.0 for number in range(10)}}])
    assert height() == 2 * row
    written(tmp_path / "second" / "logs", [{"step": 1, "val/loss": 0.5}, {"step": 2, "val/loss": -0.5}])
    assert height() == 3 * row
    assert [path.name for path in tmp_path.glob("*.png")] == ["curves.png"], "and no draft of it"


def test_no_panel_is_alone_in_its_row():
    for counts in [(6,), (6, 7), (5, 6), (11, 6)]:
        columns = _columns(counts)
        assert all(count % columns != 1 for count in counts), counts
    assert _columns([5, 10]) == 5
    assert _columns([6]) == 6
    assert _columns([1]) == 4


def test_what_a_continuation_measured_again_counts(tmp_path):
    written(tmp_path, [{"step": 1, "a": 1.0}, {"step": 2, "a": 2.0}], "metrics-1.csv")
    written(tmp_path, [{"step": 2, "a": 3.0}])
    os.utime(tmp_path / "metrics-1.csv", (1, 1))
    assert read_metrics(tmp_path) == {"a": [(1, 1.0), (2, 3.0)]}
