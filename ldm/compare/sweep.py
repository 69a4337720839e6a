"""The end of a sweep: a row for each of its runs, with the final scores, and the command that compares them."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from rich.console import Console

from ldm.compare.program import fits, rich_table
from ldm.compare.table import Rows, names_of, parts_that_fit
from ldm.files.run_names import CONFIG_FILE
from ldm.report.page import shown
from ldm.report.run_folder import RunFiles, last_score, read_run

PART = re.compile(r".*_t[\d.]+")
"""Names of scores that are the part of another score at one noise level."""


def print_report(folders: Sequence[Path], metric: str | None, direction: str | None) -> None:
    """Print the table of a sweep's runs and the command that compares them; nothing of less than two runs."""
    if (found := sweep_report(folders, metric, direction)) is None:
        return
    console = Console()
    for part in parts_that_fit(found[0], partial(fits, console)):
        console.print(rich_table(part), markup=False)
    print(f"next: {found[1]}")


def sweep_report(folders: Sequence[Path], metric: str | None, direction: str | None) -> tuple[Rows, str] | None:
    """Return the table of a sweep's runs and the command that compares them; None of less than two runs.

    Args:
        folders: The run folders; those that cannot be read are left out.
        metric: The score that the sweep optimises, which is shown alone. None: all scores of the last stage.
        direction: "minimize" or "maximize", after which runs are sorted, the best first; None: they stay in their order.
    """
    runs = _read(folders)
    if len(runs) < 2:
        return None
    scores = [_scores(run, metric) for run in runs]
    if metric is not None and direction is not None:
        order = sorted(range(len(runs)), key=lambda place: _rank(scores[place].get(metric), direction))
        runs, scores = [runs[place] for place in order], [scores[place] for place in order]
    columns = list(dict.fromkeys(name for one in scores for name in one))
    rows = [
        [name, *(shown(one.get(column)) for column in columns), "" if run.is_finished else "not finished"]
        for name, run, one in zip(names_of(runs), runs, scores, strict=True)
    ]
    head = ["run", *columns, ""]
    if all(run.is_finished for run in runs):
        head, rows = head[:-1], [row[:-1] for row in rows]
    command = f"python -m ldm.compare {_named([run.folder for run in runs])}"
    return Rows("Runs of the sweep", head, rows), command


def beside(folder: Path) -> list[Path]:
    """Return the run folders in the folder of a sweep, the oldest first."""
    return [file.parent for file in sorted(folder.glob(f"*/{CONFIG_FILE}"), key=lambda file: file.stat().st_mtime)]


def _read(folders: Sequence[Path]) -> list[RunFiles]:
    runs = []
    for folder in dict.fromkeys(folders):
        try:
            runs.append(read_run(folder))
        except ValueError:  # as of a job that has failed before its first step
            continue
    return runs


def _scores(run: RunFiles, metric: str | None) -> dict[str, float]:
    """Return the scores of a run that a table shows, the last stage's that has them."""
    if metric is None:
        return {name: value for name, value in run.stages[-1].scores.items() if not PART.fullmatch(name)}
    found = last_score([stage.scores for stage in run.stages], metric)
    return {} if found is None else {metric: found}


def _rank(score: float | None, direction: str) -> float:
    """Return a number that is less for better scores; runs without one are last."""
    if score is None or math.isnan(score):
        return float("inf")
    return score if direction == "minimize" else -score


def _named(folders: Sequence[Path]) -> str:
    """Return run folders as a shell takes them: as a pattern where they are all that there are in a folder."""
    parent = folders[0].parent
    if set(beside(parent)) == set(folders):
        return f"{shlex.quote(str(parent))}/*"
    return " ".join(shlex.quote(str(folder)) for folder in folders)
