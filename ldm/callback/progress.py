"""The progress bar of training."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import ProgressBar
from tqdm.auto import tqdm


class Progress(ProgressBar):
    """One bar over a stage's optimiser steps, from where it begins or goes on, with losses and scores."""

    def __init__(self) -> None:
        super().__init__()
        self._shown = True
        self._bar: tqdm | None = None

    def disable(self) -> None:
        """Hide the bar, in processes that are not the first."""
        self._shown = False

    def enable(self) -> None:
        """Show the bar."""
        self._shown = True

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin the bar at the step from which training goes on."""
        self._bar = tqdm(
            total=trainer.max_steps, initial=trainer.global_step, desc="training", unit="step", disable=not self._shown
        )

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Move the bar after an optimiser step."""
        if self._bar is not None and trainer.global_step > self._bar.n:
            metrics = {name: value for name, value in self.get_metrics(trainer, pl_module).items() if name != "v_num"}
            self._bar.set_postfix(metrics, refresh=False)
            self._bar.update(trainer.global_step - self._bar.n)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Close the bar."""
        self._close()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Close the bar."""
        self._close()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
