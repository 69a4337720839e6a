"""The report of a run that has ended: curves, a table of scores, a page, the next command."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

from ldm.callback.curves import plot_curves
from ldm.report.page import REPORT_FILE, write_report
from ldm.report.record import read_record
from ldm.report.run_folder import last_score, read_run
from ldm.task.base import Task
from ldm.training.stage import Stage

log = logging.getLogger(__name__)


def report(run: Path, stages: Sequence[Stage[Task]], *, new: bool) -> None:
    """Draw the curves; write the report as a page; print a table of the results, and the next command to type.

    Args:
        run: The run folder.
        stages: The finished stages, in their order.
        new: Whether anything was done.
    """
    curves = plot_curves(run, {stage.name: stage.all_panels for stage in stages})
    table = Table()
    for column in ("stage", "score", "value"):
        table.add_column(column)
    for stage in stages:
        for name, value in stage.read_results().items():
            table.add_row(stage.name, name, f"{value:,.4g}" if isinstance(value, float) else f"{value:,}")
    Console().print(table)
    lines = [f"{run}: {'finished' if new else 'all is done already'}", f"curves: {curves}"]
    following = stages[-1].next_command()
    if (page := _write_page(run, following)) is not None:
        lines.append(f"report: {page}")
    print("\n".join([*lines, f"next: {following}"]))


def _write_page(run: Path, following: str) -> Path | None:
    """Write the report as a page; return None, with a warning, where that is impossible, since a run does not need it."""
    record = read_record(run)
    if record is not None and record.next_command != following:
        replace(record, next_command=following).write(run)
    page = run / REPORT_FILE
    try:
        write_report(read_run(run), page)
    except Exception as error:  # what was trained counts, whatever a page of it stumbles over
        log.warning("the report %s could not be written (%s: %s)", page, type(error).__name__, error)
        return None
    return page


def score(results: Sequence[Mapping[str, float]], metric: str | None) -> float | None:
    """Return the score that a sweep optimises, of the last stage that has it.

    Args:
        results: The scores of each stage.
        metric: Its name; None: there is no such score.

    Raises:
        ValueError: If no stage has it.
    """
    if metric is None:
        return None
    if (found := last_score(results, metric)) is None:
        raise ValueError(f"optimized_metric={metric} was not measured in this run; it was finished for another purpose")
    return found
