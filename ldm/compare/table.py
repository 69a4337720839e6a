"""The table of a comparison: scores, steps, seconds, parameters and options, a column for each run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from ldm.compare.agreement import expectations
from ldm.compare.expected import ExpectedCurve, curve_of, finite
from ldm.compare.options import different_options
from ldm.report.page import shown
from ldm.report.run_folder import FACTS, RunFiles, StageFiles

SHORT = 60
"""The largest number of letters of an option's value that a table shows."""


LONG = 100
"""The largest number of letters of a run's name in the head of a table."""


class Rows(NamedTuple):
    """A table.

    Attributes:
        title: Its title.
        head: Names of the columns.
        rows: Cells as texts, the name of the row first.
    """

    title: str
    head: list[str]
    rows: list[list[str]]


def names_of(runs: Sequence[RunFiles]) -> list[str]:
    """Return short names of runs, each another: that of the folder, or as much of its path as is needed."""
    for parts in range(1, max(len(run.folder.resolve().parts) for run in runs) + 1):
        names = ["/".join(run.folder.resolve().parts[-parts:]) for run in runs]
        if len(set(names)) == len(names):
            break
    return names


def score_tables(runs: Sequence[RunFiles], expected: ExpectedCurve | None) -> list[Rows]:
    """Return a table for each stage: what the runs have scored at their ends, and what is expected there, if all end at one step.

    Args:
        runs: The runs.
        expected: The expected curve; None: none is known.
    """
    tables = []
    for stage in dict.fromkeys(stage.name for run in runs for stage in run.stages):
        of_runs = [next((one for one in run.stages if one.name == stage), None) for run in runs]
        names = dict.fromkeys(name for one in of_runs if one is not None for name in one.results if name not in FACTS)
        rows, step = [], None if expected is None else _step(of_runs)
        for name in [*names, *FACTS]:
            cells = ["" if one is None else shown(one.results.get(name)) for one in of_runs]
            if expected is not None and step is not None:
                cells.append(_expected(expected, stage, name, step))
            rows.append([name, *cells])
        steps = ["" if one is None else f"{one.step:,}{'' if one.results else ' (not finished)'}" for one in of_runs]
        rows.append(["last step logged", *steps, *([] if step is None else [""])])
        head = [stage, *names_of(runs), *([] if step is None else ["expected ± spread"])]
        tables.append(Rows(f"Scores of {stage}", head, rows))
    return tables


def option_table(runs: Sequence[RunFiles]) -> Rows | None:
    """Return the options in which runs differ; None where they differ in none. Stages that not all have trained do not count."""
    trained = set.intersection(*({*(stage.name for stage in run.stages), *run.waiting} for run in runs))
    found = different_options(
        [
            {**run.config, "stage": {name: node for name, node in run.config["stage"].items() if name in trained}}
            for run in runs
        ]
    )
    if not found:
        return None
    rows = [
        [name, *(text if len(text) <= SHORT else f"{text[: SHORT - 3]}..." for text in texts)]
        for name, texts in found.items()
    ]
    return Rows("Options that differ", ["option", *names_of(runs)], rows)


def numbered_names(names: Sequence[str]) -> list[str]:
    """Return names behind their numbers, "[1] a"."""
    return [f"[{place}] {name}" for place, name in enumerate(names, start=1)]


def are_long(names: Sequence[str]) -> bool:
    """Return whether names are too long, all together, for the head of a table."""
    return sum(map(len, names)) > LONG


def with_numbers(table: Rows, names: Sequence[str]) -> Rows:
    """Return a table in whose head runs are called [1], [2] and so on, in the order of their names."""
    numbers = {name: f"[{place}]" for place, name in enumerate(names, start=1)}
    first, *others = table.head
    return Rows(table.title, [first, *(numbers.get(name, name) for name in others)], table.rows)


def parts_that_fit(table: Rows, fits: Callable[[Rows], bool]) -> list[Rows]:
    """Return a table in parts of as many columns as fit, one at least, each behind the names of the rows."""
    parts, first, columns = [], 1, len(table.head)
    while first < columns:
        last = columns
        while last > first + 1 and not fits(_columns(table, first, last)):
            last -= 1
        parts.append(_columns(table, first, last))
        first = last
    return parts


def _columns(table: Rows, first: int, last: int) -> Rows:
    return Rows(
        table.title, [table.head[0], *table.head[first:last]], [[row[0], *row[first:last]] for row in table.rows]
    )


def markdown(table: Rows) -> str:
    """Return a table in Markdown."""
    lines = [table.head, ["---", *["---:"] * (len(table.head) - 1)], *table.rows]
    return "\n".join("| " + " | ".join(map(_cell, line)) + " |" for line in lines)


def _cell(text: str) -> str:
    """Return a text as a cell of Markdown."""
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")


def _expected(expected: ExpectedCurve, stage: str, name: str, step: int) -> str:
    """Return mean and standard deviation at a step of an expected curve; the mean alone of one seed, "" where there is none."""
    values = expected.values.get((stage, name), {})
    if not finite(values.get(step, ())):
        return ""
    found = expectations(values).get(step)
    mean = dict(curve_of(values))[step]
    return shown(mean) if found is None else f"{shown(found.mean)} ± {shown(found.spread)}"


def _step(stages: Sequence[StageFiles | None]) -> int | None:
    """Return the step at which the runs have been measured at their ends; None where these are several."""
    steps = {int(stage.results["steps"]) for stage in stages if stage is not None and "steps" in stage.results}
    return steps.pop() if len(steps) == 1 else None
