"""The learning rates of training."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import pytorch_lightning as pl
from torch.optim import Optimizer

from ldm.callback.steps import StepCounter


class LearningRates(pl.Callback):
    """Logs the rates that an optimiser step was made with, as `lr-AdamW`, under the number of that step.

    (Lightning's LearningRateMonitor logs before the step, and so under the number of the step before.)

    Args:
        every_n_steps: Optimiser steps between two rows; 0: nothing is logged.
    """

    def __init__(self, every_n_steps: int) -> None:
        self.every_n_steps = every_n_steps
        self._steps = StepCounter()
        self._rates: dict[str, float] = {}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start again at the step from which training continues."""
        self._steps.made = trainer.global_step

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Record the learning rates before a scheduler changes them after the step."""
        if self.every_n_steps and (trainer.global_step + 1) % self.every_n_steps == 0:
            self._rates = rates_of(trainer.optimizers)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log the rates of a step that was made, where that is due."""
        if self._steps.advances(trainer) and self.every_n_steps and self._steps.made % self.every_n_steps == 0:
            for logger in trainer.loggers:
                logger.log_metrics(self._rates, step=trainer.global_step)


def rates_of(optimizers: Iterable[Optimizer]) -> dict[str, float]:
    """Return name -> learning rate: "lr-Adam", "lr-Adam-1" of the second optimizer of a kind, "lr-Muon/pg2" of a group."""
    found, seen = {}, Counter[str]()
    for optimizer in optimizers:
        kind = type(optimizer).__name__
        name = f"lr-{kind}-{seen[kind]}" if seen[kind] else f"lr-{kind}"
        seen[kind] += 1
        for place, group in enumerate(optimizer.param_groups, start=1):
            found[f"{name}/pg{place}" if len(optimizer.param_groups) > 1 else name] = float(group["lr"])
    return found
