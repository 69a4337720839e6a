"""Checkpoints of a run: every so many steps, at the end, on a signal, and the best by a metric."""

from __future__ import annotations

import copy
import logging
import math
import zipfile
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.trainer.states import TrainerFn

from ldm.callback.agreement import Agreement
from ldm.callback.signals import DIVERGED, STOP, Preempted, Signals, leave_signals_alone
from ldm.callback.steps import StepCounter
from ldm.callback.writer import draft_of
from ldm.optim.divergence import NEVER, WEIGHTS, Diverged, Watch, all_finite, code_of, fault_of
from ldm.processes.ranks import check_same

log = logging.getLogger(__name__)

BEST = "best.ckpt"


class Checkpoints(Checkpoint):
    """Writes `step-00001000.ckpt`, ... into a folder, always after a whole optimiser step, the last one among them.

    SIGUSR1 saves at the end of the running step and goes on; SIGTERM saves and raises Preempted on all ranks, whichever
    of them got it. Several ranks do so together one step later, so that none waits for its device or for another: see
    Agreement. They wait, and answer at the end of the running step, where a file is due or a validation follows. (A signal during
    a validation takes effect after it, during the one that ends a stage after its running batch.) A file appears under its name
    whole or not at all: see CheckpointWriter, which the trainer needs.

    A training that diverged ends, on all ranks after the same step, by Diverged: when a loss or a gradient that was not finite
    is noticed, and at the latest before a validation and before anything is written. So no checkpoint ever holds weights
    that are not finite.

    Args:
        folder: The folder for the files.
        every_n_steps: Optimiser steps between two files.
        keep: How many of the newest files are kept; None: all.
        best: A metric that validation logs, like val/psnr: the checkpoint with its best value is kept as best.ckpt.
        mode: Whether the best is the "min" or the "max".
        signals: The requests to the run; None: there are none.
        watch: The watch to which the task shows its losses and gradients; None: only weights are looked at.

    Raises:
        ValueError: If an option is outside its range.
    """

    def __init__(
        self,
        folder: Path,
        *,
        every_n_steps: int,
        keep: int | None = 3,
        best: str | None = None,
        mode: Literal["min", "max"] = "min",
        signals: Signals | None = None,
        watch: Watch | None = None,
    ) -> None:
        if every_n_steps < 1 or (keep is not None and keep < 1):
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
        self.signals = signals or Signals()
        self.watch = watch or Watch()
        self._steps = StepCounter()
        self._agreement = Agreement()
        self._common_batches = 0.0

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Handle signals in place of Lightning, whose handler would not save, and would make each batch wait for the device."""
        leave_signals_alone(trainer)

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Remember the step. On a CPU, take what the optimisers will work with out of the file, which may be deleted."""
        self._steps.made = checkpoint["global_step"]
        if trainer.strategy.root_device.type == "cpu":
            checkpoint["optimizer_states"] = copy.deepcopy(checkpoint["optimizer_states"])

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Check that training can go on from the checkpoint, and that all processes go on from the same.

        Raises:
            ValueError: If its weights are not finite, or processes differ.
        """
        data = trainer.datamodule  # type: ignore[attr-defined]
        place = {"step": self._steps.made, "position in the data": data.position if data is not None else 0}
        check_same(trainer, "the place to go on from", place)
        if trainer.ckpt_path is not None and not all_finite(pl_module.parameters()):
            raise ValueError(
                f"the checkpoint {trainer.ckpt_path} holds weights that are not finite, for the training had diverged; "
                "delete it, and the same command goes on from the one before it"
            )

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Find the best checkpoint so far, and delete files that a killed process had begun to write."""
        self._steps.made = trainer.global_step
        self._agreement = Agreement()
        if self.best is not None and (self.folder / BEST).is_file():
            content = torch.load(self.folder / BEST, map_location="cpu", weights_only=True, mmap=True)
            before = content["callbacks"][self.state_key]
            if (before["best"], before["mode"]) == (self.best, self.mode):
                self.best_value = before["best_value"]
        if trainer.is_global_zero:
            for draft in self.folder.glob(draft_of(Path("*.ckpt")).name):
                draft.unlink()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save after an optimiser step where a file is due, or a signal has asked for one; end where one has asked for that.

        Raises:
            Preempted: If SIGTERM has asked for the end.
            Diverged: If what is to be saved is not finite.
        """
        if not self._steps.advances(trainer):
            return
        due = self._steps.made % self.every_n_steps == 0 or self._steps.made == trainer.max_steps
        mine = DIVERGED if self.watch.noticed() else self.signals.take()
        asked = self._agreement.exchange(trainer, mine, at_once=due or _validation_follows(trainer))
        if asked or due:
            self._save_step(trainer, pl_module, asked)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save and end, if a signal has asked for it in a step that turned out to be the last.

        Raises:
            Preempted: If SIGTERM has asked for the end.
            Diverged: If what is to be saved is not finite.
        """
        if asked := self._agreement.outstanding():
            self._save_step(trainer, pl_module, asked)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Look at the weights before they are validated; when a stage ends, count the batches that all ranks have.

        Raises:
            Diverged: If a weight, loss or gradient was not finite.
        """
        if trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking:
            self._check(trainer, pl_module)
            return
        batches = torch.tensor(float(sum(trainer.num_val_batches)), device=trainer.strategy.root_device)
        self._common_batches = float(trainer.strategy.reduce(batches, reduce_op="min"))

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """End after a batch of the validation that ends a stage, if SIGTERM has asked for that."""
        if batch_idx < self._common_batches:  # a rank may have one batch more than another
            self.end_if_asked(trainer)

    def end_if_asked(self, trainer: pl.Trainer) -> None:
        """Raise Preempted, on all ranks, if SIGTERM came to any in the validation that ends a stage. All must call it."""
        if trainer.state.fn != TrainerFn.VALIDATING:
            return
        if self._agreement.exchange(trainer, self.signals.take(), at_once=True) == STOP:
            raise Preempted(
                "stopped by SIGTERM during the last validation; all that was trained is saved, and the same command goes on"
            )

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save the best checkpoint where this one is it.

        Raises:
            ValueError: If validation does not log the metric.
        """
        if self.best is None or trainer.sanity_checking or trainer.state.fn != TrainerFn.FITTING:
            return
        if self.best not in trainer.callback_metrics:
            known = ", ".join(sorted(name for name in trainer.callback_metrics if name.startswith(("val/", "eval/"))))
            raise ValueError(f"the best checkpoint by {self.best!r} cannot be found; validation logs {known}")
        value = float(trainer.callback_metrics[self.best])
        before = self.best_value
        better = before is None or (value < before if self.mode == "min" else value > before)
        if better and math.isfinite(value):
            self.best_value = value
            self._save(trainer, pl_module, self.folder / BEST)

    def state_dict(self) -> dict[str, Any]:
        """Return the best value, for best.ckpt, which knows its own; that of step-*.ckpt may be older than the best there is."""
        return {"best": self.best, "mode": self.mode, "best_value": self.best_value}

    def _prune(self) -> None:
        """Delete whole checkpoints but the newest; what is no whole checkpoint, or of a later step, is not one of them."""
        if self.keep is None:
            return
        last = self.folder / f"step-{self._steps.made:08d}.ckpt"
        for old in [path for path in whole(self.folder) if path <= last][: -self.keep]:
            old.unlink()

    def _save_step(self, trainer: pl.Trainer, pl_module: pl.LightningModule, asked: int) -> None:
        """Save after a step, and end where that was asked for."""
        self._save(trainer, pl_module, self.folder / f"step-{self._steps.made:08d}.ckpt")
        if trainer.is_global_zero:
            self._prune()
        if asked:
            log.info("saved at step %d, as a signal asked for", self._steps.made)
        if asked == STOP:
            raise Preempted(
                f"stopped by SIGTERM at step {self._steps.made}, which is saved; the same command goes on from there"
            )

    def _save(self, trainer: pl.Trainer, pl_module: pl.LightningModule, path: Path) -> None:
        self._check(trainer, pl_module)
        trainer.save_checkpoint(
            path, weights_only=False
        )  # and wait for each other: the file is there before any rank goes on, or ends

    def _check(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Raise Diverged, on all ranks, where any has seen what is not finite. Waits for the device."""
        code = self.watch.code()
        if code == NEVER and not all_finite(pl_module.parameters()):
            code = code_of(self._steps.made - 1, WEIGHTS)
        if trainer.world_size > 1:
            mine = torch.tensor(code, device=trainer.strategy.root_device)
            code = int(trainer.strategy.reduce(mine, reduce_op="min"))
        if (fault := fault_of(code)) is None:
            return
        good = whole(self.folder)
        raise Diverged(
            f"the training diverged at step {fault.step}: {fault.what} is inf or nan; "
            + (f"the last good state is {good[-1]}" if good else "there is no checkpoint from before")
        )


def _validation_follows(trainer: pl.Trainer) -> bool:
    """Return whether a validation comes right after the running batch, where validations are counted in batches."""
    every = trainer.val_check_batch
    if trainer.check_val_every_n_epoch is not None or not isinstance(every, int):
        return False
    return (trainer.fit_loop.total_batch_idx + 1) % every == 0


def end_if_asked(trainer: pl.Trainer) -> None:
    """Raise Preempted, on all ranks, if SIGTERM came to any in the validation that ends a stage. All must call it."""
    for callback in trainer.checkpoint_callbacks:
        if isinstance(callback, Checkpoints):
            callback.end_if_asked(trainer)


def saved(folder: Path) -> list[Path]:
    """Return the checkpoints of a folder from which training can go on, the newest last."""
    return sorted(folder.glob("step-*.ckpt"))


def step_of(path: Path) -> int:
    """Return the optimiser step after which a checkpoint was written."""
    return int(path.stem.removeprefix("step-"))


def whole(folder: Path) -> list[Path]:
    """Return the checkpoints of a folder that are not cut, the newest last."""
    return [path for path in saved(folder) if zipfile.is_zipfile(path)]


def newest(folder: Path) -> Path | None:
    """Return the newest checkpoint of a folder that is whole; None where the folder has none.

    Raises:
        ValueError: If there are some, but none of them is whole.
    """
    found, good = saved(folder), whole(folder)
    if found and not good:
        raise ValueError(
            f"{found[-1]} is not a whole checkpoint, and there is no other to go on from; copy it again, or delete "
            f"{'it' if len(found) == 1 else f'all {len(found)} of them'} to begin this stage anew"
        )
    for path in reversed(found):
        if path in good:
            return path
        log.warning("%s is not a whole checkpoint; taking the one before it", path)
    return None
