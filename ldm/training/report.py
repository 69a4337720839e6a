"""The report of a run that has ended: curves, a table of scores, the next command."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from ldm.callback.curves import plot_curves
from ldm.task.base import Task
from ldm.training.stage import Stage


def report(run: Path, stages: Sequence[Stage[Task]], *, new: bool) -> None:
    """Draw the curves; print a table of the results, and the next command to type.

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
    print(f"{run}: {'finished' if new else 'all is done already'}\ncurves: {curves}\nnext: {stages[-1].next_command()}")


def score(results: Sequence[Mapping[str, float]], metric: str | None) -> float | None:
    """Return the score that a sweep optimises: that of the last stage which has it.

    Args:
        results: The scores of each stage.
        metric: Its name; None: there is no such score.

    Raises:
        ValueError: If no stage has it.
    """
    if metric is None:
        return None
    for scores in reversed(results):
        for name in (metric, f"eval/{metric}", f"val/{metric}"):
            if name in scores:
                return scores[name]
    raise ValueError(f"optimized_metric={metric} was not measured in this run; it was finished for another purpose")
