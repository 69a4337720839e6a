"""Checkpoints of a run: every so many steps, on a signal, and the best by a metric."""

from __future__ import annotations

import logging
import math
import os
import signal
import zipfile
from pathlib import Path
from types import FrameType
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.trainer.states import TrainerFn

log = logging.getLogger(__name__)

BEST = "best.ckpt"
GO_ON, SAVE, STOP = 0, 1, 2


class Preempted(Exception):  # noqa: N818
    """Training was asked to end by SIGTERM, and has saved where it stands."""


class Checkpoints(Checkpoint):
    """Writes `step-00001000.ckpt`, ... into a folder, always after a whole optimiser step.

    SIGUSR1 saves at the end of the running step and goes on; SIGTERM saves and raises Preempted on all ranks, whichever
    of them was told. (A signal during validation takes effect after it.) A file appears under its name whole or not at
    all: it is written beside it and renamed, on the same file system.

    folder         for the files
    every_n_steps  optimiser steps between two files
    keep           newest files to keep
    best           of a metric that validation logs, like val/psnr: the checkpoint with the best value is kept as best.ckpt
    mode           whether the best is the "min" or the "max"
    """

    def __init__(
        self,
        folder: Path,
        *,
        every_n_steps: int,
        keep: int = 1,
        best: str | None = None,
        mode: Literal["min", "max"] = "min",
    ) -> None:
        if every_n_steps < 1 or keep < 1:
            raise ValueError(
                f"checkpoints are written every 1 or more steps and 1 or more are kept; got {every_n_steps} and {keep}"
            )
        if mode not in ("min", "max"):
            raise ValueError(f"the best of a metric is its 'min' or its 'max'; got {mode!r}")
        self.folder = folder
        self.every_n_steps = every_n_steps
        self.keep = keep
        self.best = best
        self.mode = mode
        self.best_value: float | None = None
        self._asked = GO_ON
        self._step = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Listen to signals, in Lightning's place: its handler would not save, and does not ask the other ranks."""
        self._step = trainer.global_step
        if self.best is not None and (self.folder / BEST).is_file():
            content = torch.load(self.folder / BEST, map_location="cpu", weights_only=True, mmap=True)
            before = content["callbacks"][self.state_key]
            if (before["best"], before["mode"]) == (self.best, self.mode):
                self.best_value = before["best_value"]
        signal.signal(signal.SIGTERM, self._ask)
        signal.signal(signal.SIGUSR1, self._ask)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step == self._step:
            return  # inside gradient accumulation
        self._step = trainer.global_step
        asked = self._agreed(trainer, self._take())
        if asked or self._step % self.every_n_steps == 0:
            self._save(trainer, self.folder / f"step-{self._step:08d}.ckpt")
            if trainer.is_global_zero:
                self._prune()
        if asked:
            log.info("saved at step %d, as a signal asked for", self._step)
        if asked == STOP:
            raise Preempted(
                f"stopped by SIGTERM at step {self._step}, which is saved; the same command goes on from there"
            )

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.best is None or trainer.sanity_checking or trainer.state.fn != TrainerFn.FITTING:
            return
        if self.best not in trainer.callback_metrics:
            known = ", ".join(sorted(name for name in trainer.callback_metrics if name.startswith(("val/", "eval/"))))
            raise ValueError(f"the best checkpoint by {self.best!r} cannot be found; validation logs {known}")
        value = float(trainer.callback_metrics[self.best])
        before = self.best_value
        better = before is None or (value < before if self.mode == "min" else value > before)
        if better and not math.isnan(value):
            self.best_value = value
            self._save(trainer, self.folder / BEST)

    def state_dict(self) -> dict[str, Any]:
        """For best.ckpt, which knows its own value; that of step-*.ckpt may be older than the best there is."""
        return {"best": self.best, "mode": self.mode, "best_value": self.best_value}

    def _prune(self) -> None:
        """Delete whole checkpoints but the newest; what is no whole checkpoint, or of a later step, is not one of them."""
        last = self.folder / f"step-{self._step:08d}.ckpt"
        whole = [path for path in saved(self.folder) if path <= last and zipfile.is_zipfile(path)]
        for old in whole[: -self.keep]:
            old.unlink()

    def _take(self) -> int:
        """What was asked for, which from now on is answered."""
        asked, self._asked = self._asked, GO_ON
        return asked

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self._asked = max(self._asked, STOP if number == signal.SIGTERM else SAVE)

    def _agreed(self, trainer: pl.Trainer, mine: int) -> int:
        """The most that any rank was asked for, so that all do the same at the same step."""
        if trainer.world_size == 1:
            return mine
        asked = torch.tensor(mine, device=trainer.strategy.root_device)
        return int(trainer.strategy.reduce(asked, reduce_op="max"))  # type: ignore[arg-type]

    def _save(self, trainer: pl.Trainer, path: Path) -> None:
        draft = path.with_name(f".{path.name}.part")
        trainer.save_checkpoint(draft)
        if trainer.is_global_zero:
            with draft.open("rb") as file:
                os.fsync(file.fileno())
            draft.replace(path)
        trainer.strategy.barrier()  # the file is there before any rank goes on, or ends


def saved(folder: Path) -> list[Path]:
    """The checkpoints of a folder from which training can go on, the newest last."""
    return sorted(folder.glob("step-*.ckpt"))


def newest(folder: Path) -> Path | None:
    """The newest checkpoint of a folder that is whole; None where there is none."""
    for path in reversed(saved(folder)):
        if zipfile.is_zipfile(path):
            return path
        log.warning("%s is not a whole checkpoint; taking the one before it", path)
    return None
