"""The processes of a run: started and connected before anything is trained, and given what the first of them decides."""

from __future__ import annotations

import os
import signal
import time
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

import pytorch_lightning as pl
import torch

from ldm.config import differences

PATIENCE = 20.0
"""Seconds for a file that another machine has written to be seen here: some network file systems remember old folders."""

SEVERAL_WAYS = ("spawn", "fork", "notebook")
"""Parts of the names of strategies that start processes in the middle of the program, not at its beginning."""


def start(trainer: pl.Trainer, strategy: str) -> None:
    """Start the processes that a trainer would start, and connect all of them; later trainers find them so.

    Every process must come here, also those that torchrun or SLURM have started.

    Args:
        trainer: The trainer.
        strategy: The name of its strategy.

    Raises:
        ValueError: If processes would be started another way.
    """
    if trainer.world_size == 1:
        return
    if any(part in strategy for part in SEVERAL_WAYS):
        raise ValueError(
            f"trainer.strategy={strategy} starts processes in a way that a run of several stages cannot; use trainer.strategy=ddp"
        )
    if trainer.strategy.launcher is not None:
        trainer.strategy.launcher.launch(_nothing, trainer=trainer)
    trainer.strategy.setup_environment()


def end(trainer: pl.Trainer) -> None:
    """End the processes that `start` has started, whatever they are doing; only to be called after an error.

    The launcher's class, and so its `kill`, are private to Lightning; `tests/test_processes.py` fails where it changes.
    """
    if trainer.world_size > 1 and trainer.strategy.launcher is not None:
        trainer.strategy.launcher.kill(signal.SIGKILL)


def check_shared(trainer: pl.Trainer, folder: Path) -> None:
    """Make a folder, in the first process, and check that all processes see the same one.

    Raises:
        ValueError: If they do not.
    """
    if trainer.world_size == 1:
        return
    mark = folder / trainer.strategy.broadcast(f".seen-by-all-{uuid.uuid4().hex}")
    made: list[Path] = []
    if trainer.is_global_zero:
        made = [place for place in (folder, *folder.parents) if not place.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        mark.touch()
    trainer.strategy.barrier()
    blind = _count(trainer, not appears(mark))
    if trainer.is_global_zero:
        mark.unlink()
        for place in made if blind else ():
            with suppress(OSError):
                place.rmdir()
    if blind:
        _fail(
            trainer,
            f"{blind} of {trainer.world_size} processes do not see the run folder of the first, "
            f"{trainer.strategy.broadcast(str(folder))}; all of them read and write there: put it on a file system that all "
            "machines share, by paths.runs_dir=FOLDER, the same for each",
        )


def check_same(trainer: pl.Trainer, what: str, value: dict[str, Any]) -> None:
    """Check that a plain value is the same in all processes; each that differs prints how.

    Args:
        trainer: The trainer that has started the processes.
        what: A description of the value, for the error.
        value: The value of this process.

    Raises:
        ValueError: If it is not.
    """
    if trainer.world_size == 1:
        return
    lines = list(differences(trainer.strategy.broadcast(value), value))
    if lines:
        print(f"{what} of the first process -> of process {trainer.global_rank}:\n  " + "\n  ".join(lines), flush=True)
    if others := _count(trainer, bool(lines)):
        _fail(
            trainer,
            f"{what} is not the same in {others} of {trainer.world_size} processes as in the first; start all of them by the "
            "same command, with the same code and data",
        )


def agreed_file(trainer: pl.Trainer, path: Path | None) -> Path | None:
    """Return the file that the first process has chosen, once all see it.

    Args:
        trainer: The trainer that has started the processes.
        path: The choice of this process, which only counts in the first; None: no file.

    Raises:
        ValueError: If not all of them see it.
    """
    if trainer.world_size == 1:
        return path
    chosen = trainer.strategy.broadcast(path)
    if blind := _count(trainer, chosen is not None and not appears(chosen)):
        _fail(
            trainer,
            f"{blind} of {trainer.world_size} processes do not see {chosen}, with which the run goes on; put the run folder on "
            "a file system that all machines share",
        )
    return chosen


def appears(file: Path) -> bool:
    """Return whether a file is there, or will be within some seconds."""
    until = time.monotonic() + PATIENCE
    while not file.is_file():
        if time.monotonic() > until:
            return False
        time.sleep(0.2)
        with suppress(OSError):
            os.listdir(file.parent)  # makes a network file system look again
    return True


def _count(trainer: pl.Trainer, yes: bool) -> int:
    """Return the number of processes in which it is true."""
    number = torch.tensor(int(yes), device=trainer.strategy.root_device)
    return int(trainer.strategy.reduce(number, reduce_op="sum"))


def _fail(trainer: pl.Trainer, message: str) -> NoReturn:
    """End all processes, which all must ask for, with one message."""
    if trainer.is_global_zero:
        raise ValueError(message)
    raise SystemExit(0)


def _nothing() -> None:
    """Do nothing: the launcher wants a function to run."""
