"""The speed of training: images per second, waiting for data, memory of the device."""

from __future__ import annotations

from time import perf_counter
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.trainer.states import TrainerFn

from ldm.batch import Batch
from ldm.callback.steps import StepCounter
from ldm.data.loader import Loader

GIB = 2**30


class Throughput(pl.Callback):
    """Logs how fast a stage trains, as often as other metrics: every so many optimiser steps.

    - `throughput/images_per_second`: images that were trained on, over all processes and accumulated batches, by their time;
    - `throughput/data_wait`: share of that time that waited for batches, in [0, 1]; of several processes the largest;
    - `throughput/memory_gib`: most memory that tensors have had on a GPU since the process began, in GiB; of several GPUs the
      largest; nothing is logged on a CPU.

    Validation takes no time here: the clock stands from its beginning until the next batch is there. So it does during the
    first step of a process, in which workers start and kernels are chosen. Checkpoints are part of training and count. The
    device is waited for when something is logged, and not at other steps, unlike in Lightning's ThroughputMonitor, which waits
    for it after each batch and does not know about waiting for data.

    Args:
        every_n_steps: Optimiser steps between two measurements; 0: nothing is logged.
    """

    def __init__(self, every_n_steps: int) -> None:
        self.every_n_steps = every_n_steps
        self._steps = StepCounter()
        self._first_step = 0
        self._running: tuple[float, float] | None = None
        self._clear()

    def _clear(self) -> None:
        self._images, self._seconds, self._waited = 0, 0.0, 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start again at the step from which training continues."""
        self._first_step = self._steps.made = trainer.global_step
        self._running = None
        self._clear()

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Start the clock, where it stands."""
        if self._running is None and trainer.global_step > self._first_step:
            self._running = perf_counter(), _waited(trainer)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Count the images; log where that is due."""
        if self._running is not None:
            self._images += len(batch.key) * trainer.world_size
        every = self.every_n_steps
        if self._steps.advances(trainer) and every and self._steps.made % every == 0 and self._images:
            self._stop(trainer)
            self._log(trainer)
            self._clear()
            self._running = perf_counter(), _waited(trainer)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop the clock."""
        if trainer.state.fn == TrainerFn.FITTING:
            self._stop(trainer)

    def _stop(self, trainer: pl.Trainer) -> None:
        """Stop the clock, once the device has done what it was given."""
        if self._running is None:
            return
        device = trainer.strategy.root_device
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        since, waited = self._running
        self._seconds += perf_counter() - since
        self._waited += _waited(trainer) - waited
        self._running = None

    def _log(self, trainer: pl.Trainer) -> None:
        """Log what was counted since the last time; all processes call it."""
        device = trainer.strategy.root_device
        on_gpu = device.type == "cuda"
        memory = torch.cuda.max_memory_allocated(device) / GIB if on_gpu else 0.0
        largest = torch.tensor([self._waited / self._seconds, memory], device=device)
        if trainer.world_size > 1:
            reduced = trainer.strategy.reduce(largest, reduce_op="max")
            assert isinstance(reduced, torch.Tensor)
            largest = reduced
        share, memory = largest.tolist()
        values = {"images_per_second": self._images / self._seconds, "data_wait": share}
        if on_gpu:
            values["memory_gib"] = memory
        for logger in trainer.loggers:
            metrics = {f"throughput/{name}": value for name, value in values.items()}
            logger.log_metrics(metrics, step=trainer.global_step)


def _waited(trainer: pl.Trainer) -> float:
    """Return the seconds for which this process has waited for training batches."""
    loader = trainer.train_dataloader
    assert isinstance(loader, Loader)
    return loader.waited
