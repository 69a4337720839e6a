"""Telling the batches that end an optimiser step from those inside gradient accumulation."""

from __future__ import annotations

import pytorch_lightning as pl


class StepCounter:
    """The number of optimiser steps that a callback has seen."""

    def __init__(self) -> None:
        self.made = 0

    def advances(self, trainer: pl.Trainer) -> bool:
        """Return whether an optimiser step was made since the last call, and remember it.

        Args:
            trainer: The trainer, at the end of a batch.
        """
        if trainer.global_step == self.made:
            return False
        self.made = trainer.global_step
        return True
