"""The log of MLPerf Training, which its compliance checker reads: written while training, completed by offline evaluation."""

from __future__ import annotations

import json
import logging
import math
import re
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities import rank_zero_only
from torch.optim import Optimizer

if TYPE_CHECKING:
    from mlperf_logging.mllog.mllog import MLLogger

LOG_FILE = "mllog.txt"
"""The file in a stage's folder."""

MARK = ":::MLLOG "
"""The beginning of each line of such a log."""

FID_TARGET = 90.0
"""The largest FID with which Stable Diffusion counts as trained (MLPerf Training, rounds v3.1 to v5.0)."""

CLIP_TARGET = 0.15
"""The smallest CLIP score with which it does."""

PACKAGE = re.escape(str(Path(__file__).resolve().parents[2]))
"""The folder of the package, which lines are not to tell."""


class MLLog(Logger, Callback):
    """Writes MLPerf's log lines of a training into `mllog.txt`: who and what, hyperparameters, start, blocks, statistics.

    Each stage of a run has a file of its own, and the first process writes it. A block is the training between two points of
    evaluation; evaluation itself is offline: `append_evaluation` adds its lines, `append_run_stop` the last one. Lines are only
    ever added. A run that goes on begins a new block where it goes on, and says nothing twice that may stand in the log once.

    As a logger it is given to the trainer with the others; as a callback it is told what happens.

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
        self._began = _now()
        self._batch = 0
        self._stopped_at = -1
        self._lines = _writer(self.file)

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
            step: The number of optimiser steps that were made.
        """
        finite = {name: float(value) for name, value in metrics.items() if math.isfinite(value)}
        if self._batch and finite:
            self._lines.event("tracked_stats", finite, metadata=_place(step or 0, self._batch))

    @rank_zero_only
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write who and what, the hyperparameters and the start; of a run that goes on, where it does."""
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        loader: Any = trainer.train_dataloader
        step, self._batch = trainer.global_step, data.images_per_step
        before = _mended(self.file)
        if not any(line["key"] == "run_start" for line in before):
            facts = {
                **self.facts,
                "global_batch_size": self._batch,
                "gradient_accumulation_steps": trainer.accumulate_grad_batches,
                "train_samples": loader.samples or "not known",
                **_hyperparameters(trainer.optimizers[0], pl_module, self._batch),
            }
            written = {line["key"] for line in before}
            if "init_start" not in written:
                self._lines.event("cache_clear", self.cache_cleared)
                self._lines.start("init_start", time_ms=self._began)
            for key, value in facts.items():
                if key not in written:
                    self._lines.event(key, value)
            if "init_stop" not in written:
                self._lines.end("init_stop")
            self._lines.start("run_start")
        blocks = [line for line in before if line["key"] in ("block_start", "block_stop")]
        if blocks and blocks[-1]["key"] == "block_start" and blocks[-1]["metadata"]["step_num"] < step:
            self._lines.end("block_stop", metadata=_place(step, self._batch))
        self._lines.start("block_start", metadata=_place(step, self._batch))
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
                self._lines.start("block_start", metadata=_place(step, self._batch))

    @rank_zero_only
    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """End the last block, where the training ends inside of it."""
        if trainer.global_step > self._stopped_at:
            self._stop_block(trainer.global_step)

    def _stop_block(self, step: int) -> None:
        self._lines.end("block_stop", metadata=_place(step, self._batch))
        self._stopped_at = step


def append_evaluation(log: Path, *, step: int, fid: float, clip: float, began: float, ended: float) -> bool:
    """Add the lines of an evaluation of one checkpoint to the log of its training. Lines that are there are not repeated.

    Args:
        log: The log, as `MLLog` wrote it.
        step: Optimiser steps after which the checkpoint was written.
        fid: FID of the images.
        clip: CLIP score of the images: the mean cosine, in [-1, 1].
        began: When the evaluation began, in seconds since 1970.
        ended: When it ended.

    Returns:
        Whether the checkpoint reaches the targets.

    Raises:
        FileNotFoundError: If there is no log.
        ValueError: If the log is that of no training, or holds other scores of the same checkpoint.
        ImportError: If the package mlperf-logging is not installed.
    """
    lines = _mended(log, missing_ok=False)
    place = _place(step, _batch_of(log, lines))
    known = {line["metadata"]["metric"]: line["value"] for line in _evaluated(lines) if _is_at(line, step)}
    scores = {"FID": fid, "CLIP": clip}
    if other := {name: known[name] for name in known if known[name] != scores.get(name)}:
        raise ValueError(
            f"{log} holds other scores of step {step} already: {other}, now {scores}; logs are only added to, so write the new "
            "scores into a copy of the log that ends before them"
        )
    if known.keys() < scores.keys():
        writer = _writer(log)
        writer.start("eval_start", metadata=place, time_ms=round(began * 1000))
        for name, value in scores.items():
            if name not in known:
                metadata = {**place, "metric": name}
                writer.event("eval_accuracy", value, metadata=metadata, time_ms=round(ended * 1000))
        writer.end("eval_stop", metadata=place, time_ms=round(ended * 1000))
    return reaches_targets(fid, clip)


def append_run_stop(log: Path) -> str:
    """Add the line that ends a log, once its checkpoints are evaluated: with success where one of them reaches the targets.

    Its time is that at which the training of the first such checkpoint ended, since offline evaluation does not count. Without
    success it is the time at which the last block ended. A log that ended without success can be ended again with it.

    Args:
        log: The log, with the lines of its evaluations.

    Returns:
        "success" or "aborted".

    Raises:
        FileNotFoundError: If there is no log.
        ValueError: If the log is that of no training.
        ImportError: If the package mlperf-logging is not installed.
    """
    lines = _mended(log, missing_ok=False)
    batch = _batch_of(log, lines)
    scores: dict[int, dict[str, float]] = {}
    for line in _evaluated(lines):
        scores.setdefault(line["metadata"]["step_num"], {})[line["metadata"]["metric"]] = line["value"]
    passed = [
        step for step, found in scores.items() if len(found) == 2 and reaches_targets(found["FID"], found["CLIP"])
    ]
    status = "success" if passed else "aborted"
    if any(line["key"] == "run_stop" and line["metadata"]["status"] == status for line in lines):
        return status
    stops = [line for line in lines if line["key"] == "block_stop" and (not passed or _is_at(line, min(passed)))]
    step = min(passed) if passed else stops[-1]["metadata"]["step_num"] if stops else 0
    ended = stops[-1]["time_ms"] if stops else _now()
    _writer(log).end("run_stop", metadata={"status": status, **_place(step, batch)}, time_ms=ended)
    return status


def reaches_targets(fid: float, clip: float) -> bool:
    """Return whether scores are those of a model that counts as trained."""
    return fid <= FID_TARGET and clip >= CLIP_TARGET


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


def _place(step: int, batch: int) -> dict[str, int]:
    """Return a point of the training: v3.1 counts steps, later rounds images."""
    return {"samples_count": step * batch, "step_num": step}


def _is_at(line: Mapping[str, Any], step: int) -> bool:
    at: int = line["metadata"]["step_num"]
    return at == step


def _evaluated(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [line for line in lines if line["key"] == "eval_accuracy"]


def _batch_of(log: Path, lines: list[dict[str, Any]]) -> int:
    """Return the batch of the training that a log is about. Raises ValueError if it is about none."""
    for line in lines:
        if line["key"] == "global_batch_size":
            batch: int = line["value"]
            return batch
    raise ValueError(f"{log} is not the log of a training: it does not say global_batch_size; train with logger=mllog")


def _mended(log: Path, *, missing_ok: bool = True) -> list[dict[str, Any]]:
    """Return the lines of a log; a last line that a process could not finish is cut off.

    Raises:
        FileNotFoundError: If there is no log, unless `missing_ok`.
        ValueError: If a line cannot be read.
    """
    if not log.is_file():
        if missing_ok:
            return []
        raise FileNotFoundError(f"no log {log}; train with logger=mllog")
    data = log.read_bytes()
    whole = data.rfind(b"\n") + 1
    if whole < len(data):
        with open(log, "r+b") as file:
            file.truncate(whole)
    lines = []
    for number, line in enumerate(data[:whole].decode(errors="replace").splitlines(), 1):
        if line.startswith(MARK):
            try:
                lines.append(json.loads(line.removeprefix(MARK)))
            except ValueError as error:
                raise ValueError(
                    f"{log}, line {number} cannot be read: {error}; mend it, or move the file away"
                ) from error
    return lines


def _now() -> int:
    """Return the milliseconds since 1970."""
    return round(time.time() * 1000)


def _writer(log: Path) -> MLLogger:
    """Return what adds lines to a log.

    Raises:
        ImportError: If the package mlperf-logging is not installed.
    """
    try:
        from mlperf_logging.mllog.mllog import MLLogger
    except ImportError as error:
        raise ImportError('logger=mllog needs mlperf-logging; type pip install -e ".[mlperf]"') from error
    lines = logging.Logger("mllog", logging.INFO)
    lines.addHandler(_Appender(log))
    return MLLogger(lines, root_dir=PACKAGE)


class _Appender(logging.Handler):
    """Adds lines to a file that is never held open, so that several processes may add to it.

    Args:
        file: The file; it is made when the first line is added.
    """

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.file = file

    def emit(self, record: logging.LogRecord) -> None:
        """Add a line."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with open(self.file, "a", encoding="utf-8") as file:
            file.write(f"{self.format(record)}\n")
