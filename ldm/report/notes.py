"""Notes on a run: what a reader of its report should know before he believes its numbers."""

from __future__ import annotations

import math
from collections.abc import Iterator

from ldm.callback.end_values import Curve
from ldm.report.record import MOST_COMMANDS
from ldm.report.run_folder import RunFiles, StageFiles

WAIT = 0.05
"""The share of time waiting for data above which a faster way to read them is worth looking for."""

RISE = 1.05
"""The ratio of a validation loss to its minimum from which it counts as risen."""


def notes(run: RunFiles) -> list[str]:
    """Return sentences on a run: what is missing, what went wrong, and what was warned of while it trained.

    Args:
        run: The run.
    """
    return list(dict.fromkeys(_notes(run)))


def _notes(run: RunFiles) -> Iterator[str]:
    for stage in run.stages:
        if not stage.results:
            of = "" if stage.steps is None else f" of {stage.steps:,}"
            yield f"The stage {stage.name} is not finished: the last step that was logged is {stage.step:,}{of}."
    for name in run.waiting:
        yield f"The stage {name} has not begun."
    for stage in run.stages:
        yield from _notes_of_stage(stage)
    if run.record is None:
        yield "Commands, machine and versions are not known: the run has no record.json, which train.py writes."
        return
    begun = len(run.record.invocations)
    if begun > 1:
        least = "at least " if begun >= MOST_COMMANDS else ""
        times = "once" if begun == 2 else f"{begun - 1} times"
        which = f"the first command and the last {begun - 1}" if least else f"its {begun} commands"
        yield f"The run was begun and then continued {least}{times}; {which} are below."
    for invocation in run.record.invocations:
        yield from (f"Warning while it ran: {text}" for text in invocation.warnings)


def _notes_of_stage(stage: StageFiles) -> Iterator[str]:
    for name, value in stage.scores.items():
        if not math.isfinite(value):
            yield f"{stage.name}: the score {name} is {value}, which says nothing about the model."
    losses = [point for point in stage.curves.get("val/loss", ()) if math.isfinite(point[1])]
    if losses:
        step, least = min(losses, key=lambda point: point[1])
        if losses[-1][1] > RISE * least:
            yield (
                f"{stage.name}: the validation loss was lowest at step {step:,} ({least:.4g}) and ended at {losses[-1][1]:.4g}: "
                "the model may have learned its training images by heart."
            )
    waits = [value for name, points in stage.curves.items() if name.endswith("/data_wait") for value in later(points)]
    if waits and (share := sum(waits) / len(waits)) > WAIT:
        yield f"{stage.name}: {share:.0%} of the time waited for data; more data.workers or cached latents may help."


def later(points: Curve) -> list[float]:
    """Return the values of the second half of a curve: the first steps wait for workers that are just beginning."""
    return [value for _, value in points[len(points) // 2 :]]
