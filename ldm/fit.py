"""Training one stage of a run, from where it stands to its results."""

from __future__ import annotations

import json
import logging
import signal
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from omegaconf import DictConfig
from pytorch_lightning.callbacks import Callback, LearningRateMonitor
from pytorch_lightning.loggers import CSVLogger, Logger

from ldm import checkpoint
from ldm.callback.checkpoints import Checkpoints, newest, step_of
from ldm.callback.ema import EMA
from ldm.callback.finished import FinishedModel
from ldm.callback.pictures import finish_pictures
from ldm.callback.progress import Progress
from ldm.callback.randomness import StepSeed
from ldm.callback.signals import Signals
from ldm.callback.writer import CheckpointWriter
from ldm.config import build, is_rank_zero, resolved
from ldm.data.base import DataModule
from ldm.divergence import Diverged
from ldm.processes import agreed_file
from ldm.stage import MODEL_FILES, Task

log = logging.getLogger(__name__)

RESULTS_FILE = "results.json"
"""In a stage's folder, once the stage is finished: its scores."""

CHECKPOINTS = "checkpoints"
"""The folder of the checkpoints, in that of a stage."""


def fit(
    name: str,
    config: DictConfig,
    data: DataModule,
    task: Task,
    callbacks: list[Callback],
    run: Path,
    first: pl.Trainer,
    signals: Signals,
) -> None:
    """Train a stage, or what is left of it, write its model, then measure that and write its results.

    A model that is there already is only measured. `first` is the trainer by which the processes were started.

    Raises Diverged where the training diverges, Preempted where SIGTERM ends it.
    """
    stage, folder = config.task[name], run / name
    loggers = _loggers(config, name, folder)
    ema = EMA(stage.ema_decay)
    saving = Checkpoints(folder / CHECKPOINTS, **resolved(stage.checkpoints), signals=signals, watch=task.watch)
    model = run / MODEL_FILES[name]
    around = [StepSeed(config.seed), LearningRateMonitor("step"), Progress(), FinishedModel(model), ema, saving]
    trainer = pl.Trainer(
        **_options(name, config, several=first.world_size > 1),
        default_root_dir=folder,
        logger=loggers,
        callbacks=[*callbacks, *around],
        plugins=[CheckpointWriter()],
    )
    data.set_batch(stage.batch_size, stage.accumulate, first.world_size)
    last = agreed_file(first, newest(folder / CHECKPOINTS) if first.is_global_zero else None)
    whole = agreed_file(first, model if first.is_global_zero and model.is_file() else None)
    start = time.monotonic()
    try:
        if whole is not None and (last is None or step_of(last) < stage.steps):
            log.info("measuring %s, which is finished", whole)
            task.model.load_state_dict(checkpoint.read(whole)[1])
        else:
            log.info("%s %s: %s", "continuing" if last else "training", name, folder)
            trainer.fit(task, datamodule=data, ckpt_path=last, weights_only=True)
            ema.apply(task)
        seconds = time.monotonic() - start
        scores = trainer.validate(task, datamodule=data, verbose=False)[0]
    except Diverged as diverged:
        if not first.is_global_zero:
            raise SystemExit(0) from None
        raise Diverged(f"{diverged}; {_advice(name, config)}") from None
    except SystemExit as ended:
        if ended.code != 1:
            raise
        if first.is_global_zero:  # Lightning's answer to Ctrl-C
            last = newest(folder / CHECKPOINTS)
            print(f"interrupted; the same command goes on from {last.stem if last else 'the beginning of this stage'}")
        raise SystemExit(128 + signal.SIGINT) from None
    if first.is_global_zero:
        size = sum(parameter.numel() for parameter in task.parameters() if parameter.requires_grad)
        results = {**scores, "steps": stage.steps, "trained parameters": size, "seconds": round(seconds, 1)}
        draft = folder / f".{RESULTS_FILE}"
        draft.write_text(json.dumps(results, indent=2))
        draft.replace(folder / RESULTS_FILE)
    trainer.strategy.barrier()
    finish_pictures(loggers)


def _options(name: str, config: DictConfig, *, several: bool) -> dict[str, Any]:
    """The trainer's options for a stage."""
    stage, options = config.task[name], resolved(config.trainer)
    if name == "autoencoder" and several and options["strategy"] in ("auto", "ddp"):
        options["strategy"] = "ddp_find_unused_parameters_true"  # each backward reaches one of the two networks
    if name != "autoencoder":
        options["accumulate_grad_batches"] = stage.accumulate
    return {
        **options,
        "max_steps": stage.steps,
        "max_epochs": -1,
        "val_check_interval": stage.validate_every_n_steps * stage.accumulate,
        "check_val_every_n_epoch": None,
        "num_sanity_val_steps": 0,
        "use_distributed_sampler": False,
        "inference_mode": False,  # guidance by gradients is evaluated, too
        "enable_model_summary": False,
    }


def _advice(name: str, config: DictConfig) -> str:
    """What to try after a training diverged."""
    stage, precision = config.task[name], str(config.trainer.precision)
    tries = []
    if precision.startswith("bf16"):
        tries.append(f"trainer.precision=32-true (now {precision}), with which the same command goes on")
    if (rate := stage.optimizer.get("lr")) is not None:
        tries.append(f"a lower task.{name}.optimizer.lr (now {rate:g})")
    tries.append(f"more task.{name}.learning_rate.warmup_steps (now {stage.learning_rate.get('warmup_steps', 0)})")
    if stage.gradient_clip is None:
        tries.append(f"task.{name}.gradient_clip=1.0 (now null)")
    return (
        "the same command would diverge again at the same step; try "
        + ", ".join(tries)
        + f". What is trained otherwise needs another name, like name={config.name}-2"
    )


def _loggers(config: DictConfig, name: str, folder: Path) -> list[Logger]:
    """CSV always, and those of the config. Metrics that an interrupted run wrote are kept beside the new ones."""
    metrics = folder / "logs" / "metrics.csv"
    if metrics.is_file() and is_rank_zero():
        number = 1
        while (kept := metrics.with_name(f"metrics-{number}.csv")).exists():
            number += 1
        metrics.rename(kept)
    csv = CSVLogger(folder, name="", version="logs", flush_logs_every_n_steps=10)
    others = build(config.logger) or {}
    return [csv, *(logger(name=f"{config.name}-{name}") for logger in others.values())]
