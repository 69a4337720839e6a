"""A stage of a run: a model that is trained, and all that belongs to training it."""

from __future__ import annotations

import json
import secrets
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.loggers import CSVLogger, Logger
from torch import nn

from ldm import checkpoint
from ldm.callback.checkpoints import saved
from ldm.callback.curves import Panels
from ldm.callback.ema import EMA
from ldm.callback.measuring import Measuring
from ldm.callback.signals import Signals
from ldm.config import build, packages_of, resolved
from ldm.data.base import DataModule
from ldm.files.run_names import RESULTS_FILE
from ldm.files.scores import read_scores, to_json_numbers
from ldm.files.whole import write_whole
from ldm.optim.divergence import check_finite
from ldm.optim.scheduler import step_options
from ldm.task.base import Task
from ldm.training.init_account import WarmStart
from ldm.training.options import StageOptions
from ldm.training.partial import completed
from ldm.training.warm_start import read_model, take_weights

ID_FILE = "run_id.txt"
"""The file in a stage's folder with the id by which loggers like Weights & Biases know the run again."""

CHECKPOINTS = "checkpoints"
"""The folder of the checkpoints, in that of a stage."""


PANELS: Panels = {
    "gradient norm": ("gradient_norm",),
    "images per second": ("/images_per_second",),
    "share of time that waits for data": ("/data_wait",),
}
"""The panels of curves that all stages have."""

TaskType = TypeVar("TaskType", bound=Task, covariant=True)


class Stage(ABC, Generic[TaskType]):
    """One of the models that a run trains, one after the other.

    A subclass says how its task is built, what it needs of the data and of earlier stages, and how its model is finished. The
    run calls, in this order: `check`, `build`, `check_data`, `prepare`, `remember`, and where it is this stage's turn `take`;
    then it trains the task and calls `finish`. Nothing is written before `remember`, and nothing is trained before that of all
    stages.

    Args:
        options: The options that all stages have. A subclass adds its own behind them.
    """

    model_file: ClassVar[str]
    """The file in the run folder that holds the finished model."""

    builds_on: ClassVar[Sequence[str]]
    """Files of earlier stages on whose models this one is trained."""

    measured_by: ClassVar[Sequence[str]]
    """Options, as patterns of names, by which the finished model is measured; its callbacks are others."""

    also_in: ClassVar[Sequence[str]] = ()
    """Files of finished models of other stages that hold a model of this one, too."""

    never_taken: ClassVar[Sequence[str]] = ()
    """Names of tensors that are always initialized, whatever weights a model begins with."""

    panels: ClassVar[Panels]
    """The panels of curves that this stage has beside those of all."""

    def __init__(self, options: StageOptions) -> None:
        self.run = options.run
        self.name = options.name
        self.optimizer = options.optimizer
        self.scheduler = options.scheduler
        self.callback_configs = options.callbacks
        self.trainer = options.trainer
        self.batch_size = options.batch_size
        self.validate_every_n_steps = options.validate_every_n_steps
        self.callbacks: dict[str, Callback] = {}
        self.loggers: list[Logger] = []
        self.warm_start: WarmStart | None = None
        self._task: TaskType | None = None
        self._run_id = ""

    @property
    @abstractmethod
    def is_given(self) -> bool:
        """True where the model is there already, made elsewhere, so that nothing is to be trained."""

    @abstractmethod
    def check(self, earlier: Sequence[Stage[Task]]) -> None:
        """Check the options before anything is built.

        Args:
            earlier: The stages that are trained before this one in the same run.

        Raises:
            ValueError: If something is missing.
        """

    @abstractmethod
    def make_task(self) -> TaskType:
        """Build the task. Nothing is read from the data, nor written; what is pretrained is loaded.

        Raises:
            ValueError: If its parts do not go together.
            FileNotFoundError: If a pretrained network is not there.
        """

    @abstractmethod
    def check_data(self, data: DataModule) -> None:
        """Check that the opened data can train this stage.

        Raises:
            ValueError: If they cannot.
        """

    @abstractmethod
    def prepare(self, data: DataModule) -> None:
        """Let the task learn from the training data what it needs before its first step, unless it knows that already."""

    @abstractmethod
    def remember(self) -> None:
        """Write what was learned from the data into the stage's folder, so that a run that goes on does not read them again."""

    @abstractmethod
    def take(self, file: Path) -> None:
        """Take the model that an earlier stage of this run has just finished.

        Args:
            file: One of `builds_on`, in the run folder.
        """

    @abstractmethod
    def trainer_options(self, *, several: bool) -> dict[str, Any]:
        """Return the options of Lightning's Trainer in which this stage differs from others.

        Args:
            several: Whether there are several processes.
        """

    @abstractmethod
    def complete(self, trainer: pl.Trainer, data: DataModule) -> None:
        """Complete the model after the last step, on the trainer's device, with averaged weights; all processes call it."""

    @abstractmethod
    def next_command(self) -> str:
        """Return the command that a user would type after this stage."""

    @property
    def task(self) -> TaskType:
        """The task; `build` makes it."""
        assert self._task is not None
        return self._task

    @property
    def folder(self) -> Path:
        """The folder of logs, checkpoints, pictures and results."""
        return self.run.folder / self.name

    @property
    def file(self) -> Path:
        """The file of the finished model."""
        return self.run.folder / self.model_file

    @property
    def results_file(self) -> Path:
        """The file of the scores."""
        return self.folder / RESULTS_FILE

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints."""
        return self.folder / CHECKPOINTS

    @property
    def is_finished(self) -> bool:
        """True once the stage was trained and measured."""
        return self.results_file.is_file()

    @property
    def begins(self) -> bool:
        """True where nothing was trained yet that could be gone on from."""
        return not self.file.is_file() and not saved(self.checkpoints)

    @property
    def steps(self) -> int:
        """Optimiser steps of the whole training."""
        steps: int = self.trainer["max_steps"]
        return steps

    @property
    def accumulate(self) -> int:
        """Batches an optimiser step."""
        batches: int = self.trainer["accumulate_grad_batches"]
        return batches

    @property
    def metrics(self) -> set[str]:
        """Names of all that validation logs."""
        made = {f"val/{name}" for name in self.task.metrics}
        return made.union(*(part.logged for part in self.evaluations))

    @property
    def evaluations(self) -> list[Measuring]:
        """The callbacks that measure images which the model makes."""
        return [callback for callback in self.callbacks.values() if isinstance(callback, Measuring)]

    @property
    def all_panels(self) -> Panels:
        """The panels of curves, those that all stages have among them."""
        return {**self.panels, **PANELS}

    @property
    def left_out(self) -> str | None:
        """Return a message about callbacks that were left out, and those that are there; None where none was left out."""
        missing = [name for name, part in self.callback_configs.items() if part is None]
        if not missing:
            return None
        there = [name for name, part in self.callback_configs.items() if part is not None]
        return f"the stage {self.name} runs without the callbacks {', '.join(missing)}; it keeps {', '.join(there)}"

    @property
    def can_be_lengthened(self) -> bool:
        """True where more steps would leave the learning rates of the steps already made as they were."""
        return not step_options(build(self.scheduler))

    def build(self, signals: Signals, panels: Mapping[str, Panels]) -> None:
        """Build the task, callbacks and loggers; nothing is written.

        Args:
            signals: The requests to the run while it trains.
            panels: Name of each stage of the run -> its panels of curves.
        """
        pl.seed_everything(self.run.config.seed, workers=True, verbose=False)  # whatever was built or read before
        self._task = self.make_task()
        if self.run.config.init is not None:
            if self.begins:
                self.warm_start = self._take_init(self._task.model)
            elif self._task.keeps_init and not self.run.config.validate_only:
                self._take_init(self._task.model)
        self._task.adapt()
        given: dict[str, Any] = {"folder": self.checkpoints, "signals": signals, "watch": self.task.watch}
        given |= {"run_folder": self.run.folder, "panels": panels}
        parts = {name: build(part) for name, part in self.callback_configs.items() if part is not None}
        made = {name: completed(part, given) for name, part in parts.items()}
        self.callbacks = dict(sorted(made.items(), key=lambda item: isinstance(item[1], EMA)))  # others use its weights
        file = self.folder / ID_FILE
        known = file.read_text().strip() if file.is_file() else ""
        self._run_id = known or f"{self.name}-{secrets.token_hex(4)}"
        given = {"save_dir": self.folder, "name": f"{self.run.config.name}-{self.name}", "id": self._run_id}
        loggers = [completed(part, given) for part in (build(self.run.config.get("logger")) or {}).values()]
        if not any(isinstance(logger, CSVLogger) for logger in loggers):
            loggers.insert(0, CSVLogger(self.folder, name="", version="logs", flush_logs_every_n_steps=10))
        self.loggers = loggers

    def write_init(self) -> None:
        """Write what was taken of an earlier model into the stage's folder, where something was."""
        if self.warm_start is not None:
            self.warm_start.write(self.folder)

    def keep_run_id(self) -> None:
        """Write the id of the run into the stage's folder, so that loggers go on with the same run when it is continued."""
        file = self.folder / ID_FILE
        if not file.is_file():
            write_whole(file, f"{self._run_id}\n")

    def _take_init(self, model: nn.Module) -> WarmStart:
        """Give the model the averaged weights of the run's `init`; see `take_weights`."""
        config = self.run.config
        file, weights = read_model(
            config.init, type(model), (self.model_file, *self.also_in), packages_of(resolved(config))
        )
        return take_weights(model, weights, file, may_be_new=config.init_new, never=self.never_taken)

    def finish(self, trainer: pl.Trainer, data: DataModule) -> dict[str, float]:
        """Build the finished model from the trained task, write it, and measure it. All processes call it.

        Args:
            trainer: The trainer that has made the last step.
            data: The data that it was trained on.

        Returns:
            The scores.

        Raises:
            ValueError: If a weight is not finite; then no model is written.
        """
        for callback in self.callbacks.values():
            if isinstance(callback, EMA):
                callback.apply()
        self.task.to(trainer.strategy.root_device).eval()
        self.complete(trainer, data)
        check_finite(self.task.model)  # in all processes, so that none waits
        if trainer.is_global_zero:
            checkpoint.save(self.file, self.task.model, self.task.config)
        trainer.strategy.barrier()
        return self.measure(trainer, data)

    def measure(self, trainer: pl.Trainer, data: DataModule) -> dict[str, float]:
        """Return the scores of the model as it is. All processes call it."""
        return dict(trainer.validate(self.task, datamodule=data, verbose=False)[0])

    def write_results(self, scores: Mapping[str, float], seconds: float | None) -> None:
        """Write the scores into the stage's folder; the file appears whole or not at all.

        Args:
            scores: Name -> value.
            seconds: The time that training took; None: nobody knows.
        """
        size = sum(parameter.numel() for parameter in self.task.parameters() if parameter.requires_grad)
        results = {**to_json_numbers(scores), "steps": self.steps, "trained parameters": size}
        if seconds is not None:
            results["seconds"] = round(seconds, 1)
        write_whole(self.results_file, json.dumps(results, indent=2, allow_nan=False))

    def read_results(self) -> dict[str, float]:
        """Return the scores of the finished stage."""
        return read_scores(self.results_file.read_text())
