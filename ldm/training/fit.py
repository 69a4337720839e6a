"""Training one stage of a run, from where it stands to its results."""

from __future__ import annotations

import json
import logging
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback
from tqdm.contrib.logging import logging_redirect_tqdm

from ldm import checkpoint
from ldm.callback.checkpoints import newest, step_of
from ldm.callback.pictures import finish_pictures
from ldm.callback.steps import steps_made
from ldm.callback.writer import CheckpointWriter
from ldm.config import build, resolved
from ldm.data.base import DataModule
from ldm.files.whole import set_aside, write_whole
from ldm.logger.numbered import number_by
from ldm.optim.divergence import Diverged
from ldm.processes.ranks import agreed_file
from ldm.task.base import Task
from ldm.training.advice import advice
from ldm.training.stage import Stage

log = logging.getLogger(__name__)

TIME_FILE = "training.json"
"""The file in a stage's folder with the seconds that its training took, over all parts of a run that was interrupted."""

OURS = ("gradient_clip_val",)
"""Options of a stage's trainer that are not passed to Lightning: tasks clip by themselves."""


def fit(stage: Stage[Task], data: DataModule, first: pl.Trainer) -> None:
    """Train a stage, or what is left of it, write its model, then measure that and write its results.

    A model that is finished already is only measured.

    Args:
        stage: The stage, built.
        data: The data, opened.
        first: The trainer by which the processes were started.

    Raises:
        Diverged: If the training diverges.
        Preempted: If SIGTERM ends it.
    """
    last = agreed_file(first, newest(stage.checkpoints) if first.is_global_zero else None)
    whole = agreed_file(first, stage.file if first.is_global_zero and stage.file.is_file() else None)
    if whole is not None and (last is None or step_of(last) < stage.steps):
        measure(stage, data, first, whole)
        return
    trainer = make_trainer(stage, data, first)
    with _ended_clearly(stage, first):
        doing = "continuing" if last else "training"
        log.info("%s %s on %s: %s", doing, stage.name, devices_of(trainer), stage.folder)
        with _timed(stage.folder, trainer, last), logging_redirect_tqdm():  # messages above the bar, not behind it
            trainer.fit(stage.task, datamodule=data, ckpt_path=last, weights_only=True)
        scores = stage.finish(trainer, data)
    _write_results(stage, scores, trainer)


def measure(stage: Stage[Task], data: DataModule, first: pl.Trainer, file: Path) -> None:
    """Measure a finished model and write the results; the model stays as it is.

    Args:
        stage: The stage, built.
        data: The data, opened.
        first: The trainer by which the processes were started.
        file: The file of the finished model.

    Raises:
        Preempted: If SIGTERM ends it.
    """
    trainer = make_trainer(stage, data, first)
    with _ended_clearly(stage, first):
        log.info("measuring %s, which is finished", file)
        stage.task.model.load_state_dict(checkpoint.read(file)[1])
        scores = stage.measure(trainer, data)
    _write_results(stage, scores, trainer)


def _write_results(stage: Stage[Task], scores: Mapping[str, float], trainer: pl.Trainer) -> None:
    """Write the scores in the first process, for which the others wait, and finish the pictures of the loggers."""
    if trainer.is_global_zero:
        stage.write_results(scores, training_seconds(stage.folder))
    trainer.strategy.barrier()
    finish_pictures(stage.loggers)


def make_trainer(stage: Stage[Task], data: DataModule, first: pl.Trainer) -> pl.Trainer:
    """Make the trainer of a stage, and set the batch of the data.

    Metrics that an interrupted run wrote are kept beside the new ones, and so is the id by which loggers know the run.

    Args:
        stage: The stage, built.
        data: The data, opened.
        first: The trainer by which the processes were started.
    """
    if first.is_global_zero:
        set_aside(stage.folder / "logs" / "metrics.csv")
        stage.keep_run_id()
    data.set_batch(stage.batch_size, stage.accumulate, first.world_size)
    options = {
        **resolved(stage.run.config.trainer),
        **{name: value for name, value in stage.trainer.items() if name not in OURS},
        **stage.trainer_options(several=first.world_size > 1),
        "val_check_interval": stage.validate_every_n_steps * stage.accumulate,
    }
    make = build({**options, "_partial_": True})
    trainer: pl.Trainer = make(
        default_root_dir=stage.folder,
        logger=stage.loggers,
        callbacks=[*stage.callbacks.values(), *(one for one in stage.loggers if isinstance(one, Callback))],
        plugins=[CheckpointWriter()],
    )
    for logger in stage.loggers:
        number_by(logger, partial(steps_made, trainer))
    return trainer


def devices_of(trainer: pl.Trainer) -> str:
    """Describe the devices and the precision of a trainer: `2 x cuda, bf16-mixed`."""
    number = f"{trainer.world_size} x " if trainer.world_size > 1 else ""
    return f"{number}{trainer.strategy.root_device.type}, {trainer.precision}"


def training_seconds(folder: Path) -> float | None:
    """Return the seconds that the training of a stage took, by its folder; None where nobody measured."""
    file = folder / TIME_FILE
    return float(json.loads(file.read_text())["seconds"]) if file.is_file() else None


@contextmanager
def _timed(folder: Path, trainer: pl.Trainer, last: Path | None) -> Iterator[None]:
    """Add the time of a training to that of its earlier parts, however it ends; a training without a new step takes none.

    Args:
        folder: The folder of the stage.
        trainer: The trainer.
        last: The checkpoint from which the training goes on; None: it begins.
    """
    made, before = (step_of(last), training_seconds(folder) or 0.0) if last is not None else (0, 0.0)
    start = time.monotonic()
    try:
        yield
    finally:
        if trainer.is_global_zero and trainer.global_step > made:
            write_whole(folder / TIME_FILE, json.dumps({"seconds": before + time.monotonic() - start}))


@contextmanager
def _ended_clearly(stage: Stage[Task], first: pl.Trainer) -> Iterator[None]:
    """Add what to do to the error of a training that diverged, and to an interruption by Ctrl-C."""
    try:
        yield
    except Diverged as diverged:
        if not first.is_global_zero:
            raise SystemExit(0) from None
        raise Diverged(f"{diverged}; {advice(stage)}") from None
    except (KeyboardInterrupt, SystemExit) as ended:
        if isinstance(ended, SystemExit) and ended.code != 1:  # 1 is Lightning's answer to Ctrl-C
            raise
        if first.is_global_zero:
            last = newest(stage.checkpoints)
            print(f"interrupted; the same command goes on from {last.stem if last else 'the beginning of this stage'}")
        raise SystemExit(128 + signal.SIGINT) from None
