"""Random numbers that belong to a step and a rank."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch


class StepSeed(pl.Callback):
    """Seeds torch before every batch from (seed, rank, number of the batch).

    So ranks draw different times and noise, and a run that continues draws what an uninterrupted one would have drawn,
    with no generator state to be saved.

    Args:
        seed: The seed of the run.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Seed from the number of the batch since the beginning of the training."""
        torch.manual_seed(mix(self.seed, trainer.global_rank, trainer.fit_loop.total_batch_idx))

    def on_validation_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Seed from the number of the batch within the validation, so that each validation draws the same."""
        torch.manual_seed(mix(self.seed, trainer.global_rank, batch_idx, 1))


def mix(*numbers: int) -> int:
    """Return a 63-bit seed made of several whole numbers; any change of one gives an unrelated seed."""
    return int(
        np.random.SeedSequence([abs(number) for number in numbers]).generate_state(1, np.uint64)[0] >> np.uint64(1)
    )
