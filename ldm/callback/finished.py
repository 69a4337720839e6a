"""The finished model of a stage."""

from __future__ import annotations

from pathlib import Path

import pytorch_lightning as pl
from pytorch_lightning.trainer.states import TrainerFn

from ldm import checkpoint


class FinishedModel(pl.Callback):
    """Writes the finished model before the validation that ends a stage, so that no failure of that can lose it.

    file  that holds it
    """

    def __init__(self, file: Path) -> None:
        self.file = file

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """After the task has estimated the statistics of its latents, at the start of that validation."""
        if trainer.state.fn != TrainerFn.VALIDATING:
            return
        checkpoint.check_finite(pl_module.model)  # type: ignore[arg-type]  # on all ranks, so that none waits
        if trainer.is_global_zero:
            checkpoint.save(self.file, pl_module.model, pl_module.config)  # type: ignore[arg-type]
        trainer.strategy.barrier()
