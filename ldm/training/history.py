"""The record of a run while it is trained; reports are made from it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig

from ldm.options.arguments import command_name
from ldm.options.sweep import chosen_experiment, typed_words
from ldm.report.machine import hardware, versions
from ldm.report.record import Invocation, Record, now, read_record, typed
from ldm.task.base import Task
from ldm.training.stage import Stage


def begin_record(folder: Path, config: DictConfig, stages: Sequence[Stage[Task]], *, processes: int) -> None:
    """Write what was typed, where it runs and with which versions into the record of a run.

    Args:
        folder: The run folder.
        config: The composed config.
        stages: The stages of the run, in their order.
        processes: Number of processes that train together.
    """
    panels = {stage.name: {title: list(names) for title, names in stage.all_panels.items()} for stage in stages}
    before = read_record(folder) or Record(experiment=chosen_experiment(), panels=panels)
    machine = hardware(
        accelerator=str(config.trainer.accelerator), precision=str(config.trainer.precision), processes=processes
    )
    command = typed(command_name("train"), typed_words())
    before.begun(Invocation(command=command, started=now(), hardware=machine, versions=versions())).write(folder)


def end_record(folder: Path, warnings: Sequence[str]) -> None:
    """Add what this command has warned of to the record of a run, however the training has ended.

    Args:
        folder: The run folder.
        warnings: Texts, in their order.
    """
    record = read_record(folder)
    if record is not None and warnings:
        record.warned(warnings).write(folder)
