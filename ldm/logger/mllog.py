"""The log of MLPerf Training, which its compliance checker reads: written while training, completed by offline evaluation."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities import rank_zero_only
from torch.optim import Optimizer

from ldm.logger.mllog_file import LOG_FILE, adder, now, place_of, read_lines


class MLLog(Logger, Callback):
    """Writes MLPerf's log lines of a training into `mllog.txt`: who and what, hyperparameters, start, blocks, statistics.

    Each stage of a run has a file of its own, and the first process writes it. A block is the training between two points of
    evaluation; evaluation itself is offline, see `ldm.logger.offline_evaluation`. Lines are only ever added. A run that goes on
    begins a new block where it goes on, and says nothing twice that may stand in the log once.

    As a logger it is given to the trainer with the others; as a callback it learns what happens.

    Args:
        save_dir: The folder of the file.
        benchmark: Name of the benchmark.
        division: "closed" or "open": which rules the log is checked by.
        organization: Who trains.
        platform: The machine.
        status: "onprem", "cloud", "preview" or "research".
        cache_cleared: Whether caches of the operating system were cleared before the run, which nobody but you knows.
        images_between_evaluations: Images that are trained on between two points of evaluation; steps are rounded up.
        eval_samples: Captions with which each point is evaluated.
        seed: Seed of the run.

    Raises:
        ImportError: If the package mlperf-logging is not installed.
    """

    def __init__(
        self,
        save_dir: str | Path,
        *,
        benchmark: str,
        division: str,
        organization: str,
        platform: str,
        status: str,
        cache_cleared: bool,
        images_between_evaluations: int,
        eval_samples: int,
        seed: int,
    ) -> None:
        super().__init__()
        self.file = Path(save_dir) / LOG_FILE
        self.facts: dict[str, Any] = {
            "submission_benchmark": benchmark,
            "submission_division": division,
            "submission_org": organization,
            "submission_platform": platform,
            "submission_status": status,
            "seed": seed,
            "eval_samples": eval_samples,
        }
        self.cache_cleared = cache_cleared
        self.images_between_evaluations = images_between_evaluations
        self._began = now()
        self._batch = 0
        self._stopped_at = -1
        self._lines = adder(self.file)

    @property
    def name(self) -> str:
        """The name of the logger."""
        return "mllog"

    @property
    def version(self) -> str:
        """The version of the log: there is one a stage."""
        return ""

    @property
    def block_steps(self) -> int:
        """Optimiser steps of a block."""
        return math.ceil(self.images_between_evaluations / self._batch)

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Do nothing: the hyperparameters are read off the optimizer when training begins."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Write metrics as `tracked_stats`, those that are finite numbers.

        Args:
            metrics: Name -> value.
            step: The number of optimiser steps made.
        """
        finite = {name: float(value) for name, value in metrics.items() if math.isfinite(value)}
        if self._batch and finite:
            self._lines.event("tracked_stats", finite, metadata=place_of(step or 0, self._batch))

    @rank_zero_only
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write who and what, the hyperparameters and the start; of a run that goes on, where it does."""
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        loader: Any = trainer.train_dataloader
        step, self._batch = trainer.global_step, data.images_per_step
        before = read_lines(self.file)
        if not any(line["key"] == "run_start" for line in before):
            facts = {
                **self.facts,
                "cache_clear": self.cache_cleared,
                "global_batch_size": self._batch,
                "gradient_accumulation_steps": trainer.accumulate_grad_batches,
                "train_samples": loader.samples or "not known",
                **_hyperparameters(trainer.optimizers[0], pl_module, self._batch),
            }
            written = {line["key"] for line in before}
            if "init_start" not in written:
                self._lines.start("init_start", time_ms=self._began)
            for key, value in facts.items():
                if key not in written:
                    self._lines.event(key, value)
            if "init_stop" not in written:
                self._lines.end("init_stop")
            self._lines.start("run_start")
        blocks = [line for line in before if line["key"] in ("block_start", "block_stop")]
        if blocks and blocks[-1]["key"] == "block_start" and blocks[-1]["metadata"]["step_num"] < step:
            self._lines.end("block_stop", metadata=place_of(step, self._batch))
        self._lines.start("block_start", metadata=place_of(step, self._batch))
        self._stopped_at = step

    @rank_zero_only
    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """End a block, and begin another, after the last optimiser step of a block."""
        step = trainer.global_step
        if step > self._stopped_at and step % self.block_steps == 0:
            self._stop_block(step)
            if step < trainer.max_steps:
                self._lines.start("block_start", metadata=place_of(step, self._batch))

    @rank_zero_only
    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """End the last block, where the training ends inside of it."""
        if trainer.global_step > self._stopped_at:
            self._stop_block(trainer.global_step)

    def _stop_block(self, step: int) -> None:
        self._lines.end("block_stop", metadata=place_of(step, self._batch))
        self._stopped_at = step


def _hyperparameters(optimizer: Optimizer, task: Any, batch: int) -> dict[str, Any]:
    """Return the hyperparameters of an optimizer by MLPerf's names.

    The base rate is the rate for each image of the batch, and is rounded to twelve digits.
    """
    options, name = optimizer.param_groups[0], type(optimizer).__name__.lower()
    given = task.scheduler.keywords if isinstance(task.scheduler, partial) else {}
    found = {
        "opt_name": name,
        "opt_base_learning_rate": float(f"{options['initial_lr'] / batch:.12g}"),
        "opt_learning_rate_warmup_steps": given.get("warmup_steps", 0),
    }
    if "betas" in options:
        found |= dict(zip((f"opt_{name}_beta_1", f"opt_{name}_beta_2"), options["betas"], strict=True))
    if "eps" in options:
        found[f"opt_{name}_epsilon"] = options["eps"]
    if "weight_decay" in options:
        found[f"opt_{name}_weight_decay"] = options["weight_decay"]
    if task.gradient_clip_val is not None:
        found["opt_gradient_clip_norm"] = task.gradient_clip_val
    return found
