"""The expected curve of an experiment: what runs of several seeds have measured, step by step, in a CSV file."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ldm.callback.end_values import Curve
from ldm.compare.options import training_options
from ldm.files.whole import write_whole
from ldm.report.run_folder import RunFiles

FOLDER = Path(__file__).parent / "curves"
"""The folder of the curves that come with this program, `EXPERIMENT.csv`."""

HEAD = "# expected curve of "
"""The beginning of the first line of a file, before the name of the experiment."""

OPTIONS = "# options: "
"""The beginning of the line of a file that holds the options that decide training, as JSON."""

PLACE = ("stage", "metric", "step")
"""The first columns; those of the seeds follow, `seed 0` say."""

DIGITS = 5
"""Digits of the values in a file."""

Values = Mapping[int, Sequence[float]]
"""Step -> the values of the seeds that have one."""


@dataclass(frozen=True)
class ExpectedCurve:
    """Measurements of several runs of the same options, step by step.

    Attributes:
        title: The subject of the curve, for people: an experiment, or runs.
        seeds: Number of runs, at least 1.
        values: (stage, metric) -> step -> values, one a run that has the step.
        about: Sentences on where it comes from; the comments of a file.
        options: Full name -> value of the options that its runs were trained by, as far as a file says them.
    """

    title: str
    seeds: int
    values: Mapping[tuple[str, str], Values]
    about: Sequence[str] = ()
    options: Mapping[str, Any] = field(default_factory=dict)


def of_runs(title: str, runs: Sequence[RunFiles]) -> ExpectedCurve:
    """Return the scores of runs as the expected curve for other runs.

    Args:
        title: The subject of the curve.
        runs: Runs that differ in nothing but their seeds, at least one.
    """
    values: dict[tuple[str, str], dict[int, list[float]]] = {}
    for run in runs:
        for stage in run.stages:
            for metric, points in stage.curves.items():
                of_metric = values.setdefault((stage.name, metric), {})
                for step, value in points:
                    of_metric.setdefault(step, []).append(value)
    ordered = {key: dict(sorted(found.items())) for key, found in values.items()}
    return ExpectedCurve(title, len(runs), ordered)


def write_expected(file: Path, experiment: str, runs: Sequence[RunFiles]) -> None:
    """Write the curves of runs as the expected curve of an experiment.

    Args:
        file: The CSV file, which is replaced whole.
        experiment: Name of the experiment.
        runs: Runs that differ in nothing but their seeds.
    """
    seeds = [str(run.config.get("seed")) for run in runs]
    lines = [f"{HEAD}{experiment}", *(f"# {text}" for text in _about(runs))]
    lines.append(f"{OPTIONS}{json.dumps(training_options(runs[0].config), default=str)}")
    lines.append(",".join([*PLACE, *(f"seed {seed}" for seed in seeds)]))
    found: dict[tuple[str, str, int], dict[int, float]] = {}
    for place, run in enumerate(runs):
        for stage in run.stages:
            for metric, points in stage.curves.items():
                if is_kept(metric):
                    for step, value in points:
                        found.setdefault((stage.name, metric, step), {})[place] = value
    order = {stage.name: place for run in runs for place, stage in enumerate(run.stages)}
    for (stage_name, metric, step), row in sorted(found.items(), key=lambda item: (order[item[0][0]], item[0])):
        cells = [f"{row[place]:.{DIGITS}g}" if place in row else "" for place in range(len(runs))]
        lines.append(",".join([stage_name, metric, str(step), *cells]))
    write_whole(file, "\n".join(lines) + "\n")


def is_kept(metric: str) -> bool:
    """Return whether a metric belongs to an expected curve: neither the speed of a machine nor a learning rate."""
    return metric.startswith(("train/", "val/", "eval/"))


def read_expected(file: Path) -> ExpectedCurve:
    """Read an expected curve.

    Args:
        file: A CSV file as `write_expected` writes it. Lines that begin with "#" are comments; the first columns are stage,
            metric and step, and each further one has the values of a seed.

    Raises:
        ValueError: If it is none.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ValueError(f"there is no file expected={file}; {_advice()}") from None
    except (OSError, ValueError) as error:
        raise ValueError(f"expected={file} cannot be read as text ({error}); {_advice()}") from None
    comments = [
        line.lstrip("# ").rstrip()
        for line in text.splitlines()
        if line.startswith("#") and not line.startswith(OPTIONS)
    ]
    rows = list(csv.reader(line for line in text.splitlines() if line.strip() and not line.startswith("#")))
    if not rows or tuple(rows[0][: len(PLACE)]) != PLACE or len(rows[0]) == len(PLACE):
        raise ValueError(
            f"expected={file} is no expected curve: its first line that is no comment must be stage,metric,step and a column "
            f"for each seed; {_advice()}"
        )
    seeds = len(rows[0]) - len(PLACE)
    values: dict[tuple[str, str], dict[int, list[float]]] = {}
    for number, row in enumerate(rows[1:], start=2):
        if len(row) != len(rows[0]):
            raise ValueError(
                f"expected={file}: row {number} has {len(row)} values and not {len(rows[0])}: {','.join(row)}"
            )
        try:
            of_metric = values.setdefault((row[0], row[1]), {})
            of_metric[int(row[2])] = [float(cell) for cell in row[len(PLACE) :] if cell]
        except ValueError as error:
            raise ValueError(f"expected={file}: row {number}, {','.join(row)}: {error}") from None
    name = f"{HEAD}".lstrip("# ")
    title = comments[0].removeprefix(name) if comments and comments[0].startswith(name) else file.stem
    return ExpectedCurve(title, seeds, values, comments[1:], _options(file, text))


def _options(file: Path, text: str) -> dict[str, Any]:
    """Return the options that a file says; none where it says none.

    Raises:
        ValueError: If they cannot be read.
    """
    line = next((line for line in text.splitlines() if line.startswith(OPTIONS)), f"{OPTIONS}{{}}")
    try:
        found = json.loads(line.removeprefix(OPTIONS))
        if not isinstance(found, dict):
            raise ValueError("it is no JSON object")
    except ValueError as error:
        raise ValueError(f"expected={file}: its line of options cannot be read ({error}); delete the line") from None
    return found


def shipped(experiment: str) -> Path | None:
    """Return the file of the expected curve of an experiment that comes with this program; None where there is none."""
    return {file.stem: file for file in FOLDER.glob("*.csv")}.get(experiment)


def _about(runs: Sequence[RunFiles]) -> Iterator[str]:
    """Yield notes on the runs."""
    for run in runs:
        seed = run.config.get("seed")
        if run.record is not None and run.record.invocations:
            last = run.record.invocations[-1]
            machine = ", ".join(
                f"{name}: {last.hardware[name]}" for name in ("processor", "precision") if name in last.hardware
            )
            made = f"ldm {last.versions.get('ldm')}, torch {last.versions.get('torch')}; {machine}; {last.started[:10]}"
            yield f"seed {seed}: {made}"
        else:
            yield f"seed {seed}: neither versions nor machine were recorded"


def _advice() -> str:
    return "python -m ldm.compare RUN RUN curve=FILE.csv writes one from runs"


def finite(values: Sequence[float]) -> list[float]:
    """Return the values that are finite."""
    return [value for value in values if math.isfinite(value)]


def curve_of(values: Values) -> Curve:
    """Return the mean over the seeds at each step that has a finite value."""
    found = {step: finite(of_step) for step, of_step in values.items()}
    return [(step, sum(kept) / len(kept)) for step, kept in found.items() if kept]
