"""Fewer threads on a CPU while other programs use its cores."""

from __future__ import annotations

import logging
import time
from typing import Any

import pytorch_lightning as pl
import torch

from ldm.processes.cores import OtherPrograms, own_cores, room, threads_are_chosen

log = logging.getLogger(__name__)


class Threads(pl.Callback):
    """Trains with as many threads as there are cores that no other program uses, where one process trains on a CPU.

    Threads wait for one another many times in each step. One that shares its core with another program comes last each time, so
    that a step takes several times as long. The number changes where two looks in a row find the same other number. Sums of
    other numbers of threads differ by rounding, so the number stays where the user has said it (OMP_NUM_THREADS), or has
    asked for deterministic algorithms.

    Args:
        seconds: Time between two looks at the machine.
    """

    def __init__(self, seconds: float = 5.0) -> None:
        self.seconds = seconds
        self._most = self._now = self._found = torch.get_num_threads()
        self._others: OtherPrograms | None = None
        self._next_look = 0.0

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Start to watch the load, where this makes sense; continue with the number of threads that was found last."""
        alone = trainer.strategy.root_device.type == "cpu" and trainer.world_size == 1
        fixed = threads_are_chosen() or torch.are_deterministic_algorithms_enabled()
        self._others = None if not alone or fixed or self._most == 1 else OtherPrograms()
        self._next_look = time.monotonic() + self.seconds
        if self._others is not None:
            torch.set_num_threads(self._now)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Restore the number of threads of the process."""
        if self._others is not None:
            torch.set_num_threads(self._most)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Check the load when it is time to."""
        if self._others is None or time.monotonic() < self._next_look:
            return
        self._next_look = time.monotonic() + self.seconds
        used = self._others.cores()
        before, self._found = self._found, room(self._most, used)
        if self._found == before != self._now:
            self._now = self._found
            torch.set_num_threads(self._now)
            log.info(
                f"step {trainer.global_step}: other programs use {used:.1f} of the {len(own_cores())} cores; from now on "
                f"it trains with {self._now} thread{'s' if self._now > 1 else ''}"
            )
