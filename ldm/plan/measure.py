"""Real training steps on the machine at hand, with random weights and images that show nothing."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor
from torch.utils.data import DataLoader

from ldm.batch import Batch
from ldm.callback.ema import EMA
from ldm.callback.randomness import StepSeed
from ldm.config import build
from ldm.plan.build import make_workload
from ldm.plan.count import Allocations
from ldm.plan.workload import Workload
from ldm.training.options import RunContext
from ldm.training.run import make_stages, quiet_lightning, suit_hardware


class Measured(NamedTuple):
    """The measurement of real training steps.

    Attributes:
        seconds: Median seconds of an optimiser step.
        memory: Most bytes that were needed: on a GPU those that its allocator counted, on a CPU those of all tensors.
        steps: Number of steps that count.
    """

    seconds: float
    memory: int
    steps: int


class SyntheticData(pl.LightningDataModule):
    """The same batch again and again.

    Args:
        batch: The batch.
        count: The number of its repetitions.
    """

    def __init__(self, batch: Batch, count: int) -> None:
        super().__init__()
        self.batch = batch
        self.count = count
        self.batch_size = len(batch.key)

    def train_dataloader(self) -> DataLoader[Batch]:
        """Return the batches."""
        return DataLoader([self.batch] * self.count, batch_size=None, collate_fn=_unchanged)  # type: ignore[arg-type]

    def cache_latents(self, encode: Callable[[Tensor], Tensor], batch_size: int) -> None:
        """Do nothing: the batch has latents already, where it shall have them."""


class Clock(pl.Callback):
    """Notes when each batch begins and ends.

    Args:
        device: The device for whose end is waited.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.ends: list[float] = []

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Record the time."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self.ends.append(time.perf_counter())


def measure_steps(make: Callable[[], Workload], images: int, device: torch.device, *, steps: int) -> Measured:
    """Train a stage for some steps with Lightning, as a run does, without validation, checkpoints and pictures.

    On a CPU the memory is that of the tensors that are alive when most are, in two further steps.

    Args:
        make: Builds the stage on the device.
        images: Images at once.
        device: The device.
        steps: Optimiser steps that count; two more go before them.
    """
    seconds = [after - here for here, after in pairwise(_train(make(), images, device, steps=steps + 2)[1:])]
    if device.type == "cuda":
        return Measured(median(seconds), torch.cuda.max_memory_allocated(device), len(seconds))
    with Allocations(device) as allocations:
        _train(make(), images, device, steps=2)
    return Measured(median(seconds), allocations.peak, len(seconds))


def _train(workload: Workload, images: int, device: torch.device, *, steps: int) -> list[float]:
    """Train for some steps; return the time at the end of each."""
    stage, precision = workload.stage, str(workload.config.trainer.precision)
    accelerator = "gpu" if device.type == "cuda" else "cpu"
    suit_hardware(accelerator, precision)
    clock = Clock(device)
    average = [EMA(0.999)] if stage.callback_configs.get("ema") is not None else []
    compiled = [build(config)] if (config := stage.callback_configs.get("compile")) is not None else []
    options = {"accumulate_grad_batches": stage.accumulate, **stage.trainer_options(several=False)}
    quiet_lightning()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Lightning's advice about data that are none
        trainer = pl.Trainer(
            accelerator=accelerator,
            devices=1,
            precision=precision,  # type: ignore[arg-type]
            max_steps=steps,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            limit_val_batches=0,
            use_distributed_sampler=False,
            callbacks=[StepSeed(0), *average, *compiled, clock],
            **options,
        )
        trainer.fit(workload.task, datamodule=SyntheticData(workload.batch(images), steps * stage.accumulate))
    return clock.ends[stage.accumulate - 1 :: stage.accumulate]


def measure_apart(
    config: DictConfig, name: str, images: int, device: torch.device, *, cached: bool, steps: int
) -> Measured:
    """Measure training steps of a stage in a process of its own, whose memory is nobody else's.

    Args:
        config: The composed config.
        name: Name of the stage.
        images: Images at once.
        device: The device.
        cached: Whether training reads latents that were encoded before.
        steps: Optimiser steps that count.
    """
    plain: DictConfig = OmegaConf.create(OmegaConf.to_container(config, resolve=True))  # type: ignore[assignment]
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_measure, plain, name, images, str(device), cached, steps).result()


def _measure(config: DictConfig, name: str, images: int, device: str, cached: bool, steps: int) -> Measured:
    stage = next(one for one in make_stages(RunContext(config, Path("."))) if one.name == name)
    return measure_steps(lambda: make_workload(stage, device, cached=cached), images, torch.device(device), steps=steps)


def _unchanged(batch: Batch) -> Batch:
    return batch
