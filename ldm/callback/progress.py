"""The progress bar of training."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import ProgressBar
from tqdm.auto import tqdm

SECONDS = 1.0
"""The least time between two updates of the bar: each reads losses, and so waits for the GPU."""


class Progress(ProgressBar):
    """Show one bar over a stage's optimiser steps, from where it begins or goes on, with losses and scores.

    It stands on Lightning's base class of progress bars, not on its `TQDMProgressBar`: that one counts batches, begins anew
    in each epoch and at each start, and draws a second bar for each validation, all of which would have to be undone here.
    """

    def __init__(self) -> None:
        super().__init__()
        self.shown = True
        self.bar = tqdm(disable=True)

    def disable(self) -> None:
        """Show nothing; Lightning calls it on all ranks but the first."""
        self.shown = False

    def enable(self) -> None:
        """Show the bar."""
        self.shown = True

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin the bar at the step from which training goes on."""
        self.bar = tqdm(
            total=trainer.max_steps,
            initial=trainer.global_step,
            desc="training",
            unit="step",
            disable=not self.shown,
            mininterval=SECONDS,
        )

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Move the bar after an optimiser step; where it is drawn, show the newest losses and scores."""
        steps = trainer.global_step - self.bar.n
        if self.shown and steps > 0 and (self.bar.update(steps) or trainer.global_step >= trainer.max_steps):
            metrics = {name: value for name, value in self.get_metrics(trainer, pl_module).items() if name != "v_num"}
            self.bar.set_postfix(metrics)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Leave the bar as it is, and end its line."""
        self.bar.close()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """End the bar's line, so that the error begins a new one."""
        self.bar.close()
