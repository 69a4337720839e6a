"""Counting optimiser steps; each step may have several batches."""

from __future__ import annotations

import pytorch_lightning as pl
from pytorch_lightning.trainer.states import TrainerFn


def steps_made(trainer: pl.Trainer) -> int:
    """Return the number of optimiser steps behind the model that a trainer has; outside of training it has made its last."""
    return trainer.max_steps if trainer.state.fn == TrainerFn.VALIDATING else trainer.global_step


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
