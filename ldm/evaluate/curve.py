"""The scores of several checkpoints over their steps, as a table and as a picture."""

from __future__ import annotations

import csv
import io
import math
import os
import re
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ldm.evaluate.own import CURVE, PICTURE, PROGRAM, Results
from ldm.files.marks import KEY
from ldm.files.whole import write_whole, written_whole

STEP = re.compile(r"step-(\d+)")
"""The number of a checkpoint's step in its name."""

COLUMNS = 4
"""Panels in a row of the picture, at most."""

LEAST_RANGE = 0.1
"""For scores between 0 and 1, the least range of the axis, as a part of the largest score."""


def step_of(ckpt: str) -> int | None:
    """Return the step of a checkpoint, which its name has; None where it has none."""
    found = STEP.search(Path(ckpt).name)
    return int(found.group(1)) if found else None


def write_curve(folder: Path, results: Sequence[Results]) -> None:
    """Write the scores of checkpoints over their steps; where names have no steps, those of each, which no line joins.

    Args:
        folder: The folder.
        results: The results of each checkpoint.
    """
    steps = [step_of(result["of"]) for result in results]
    have_steps = None not in steps
    numbers = [step or 0 for step in steps] if have_steps else range(len(results))
    rows = sorted(zip(numbers, results, strict=True), key=lambda row: row[0])
    lines = _lines(rows) if have_steps else {"": rows}
    names = list(dict.fromkeys(name for result in results for name in result["scores"]))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["step" if have_steps else "place", "checkpoint", "images", *names])
    for place, result in rows:
        writer.writerow([place, result["of"], result["count"], *(result["scores"].get(name) for name in names)])
    write_whole(folder / CURVE, text.getvalue())
    columns = min(COLUMNS, len(names))
    height = -(-len(names) // columns)
    figure = Figure(figsize=(4 * columns, 3.2 * height), layout="constrained")
    for panel, name in enumerate(names, 1):
        axes = figure.add_subplot(height, columns, panel)
        for label, line in lines.items():
            values = [_score(result, name) for _, result in line]
            places, style = [place for place, _ in line], "-" if have_steps else "none"
            axes.plot(places, values, linestyle=style, marker="o", clip_on=False, label=label)
        if len(lines) > 1:
            axes.legend(fontsize="small")
        axes.set_title(name)
        if have_steps:
            axes.set_xlabel("step")
        else:
            axes.set_xlim(-0.5, len(rows) - 0.5)
            axes.set_xticks(range(len(rows)), _short([result["of"] for _, result in rows]), rotation=90)
        axes.grid(alpha=0.3)
        _limit(axes, [value for _, result in rows if not math.isnan(value := _score(result, name))])
    with written_whole(folder / PICTURE) as draft:
        figure.savefig(draft, dpi=110, format="png", metadata={KEY: PROGRAM})


def _score(result: Results, name: str) -> float:
    """Return a score, or NaN where there is none."""
    value = result["scores"].get(name)
    return math.nan if value is None else value


def _lines(rows: Sequence[tuple[int, Results]]) -> dict[str, list[tuple[int, Results]]]:
    """Return the checkpoints of each folder, in the order of their steps, by the part of its path that differs between them."""
    found: dict[str, list[tuple[int, Results]]] = {}
    for place, result in rows:
        found.setdefault(str(Path(result["of"]).parent), []).append((place, result))
    common = os.path.commonpath(list(found))
    return {os.path.relpath(folder, common): found[folder] for folder in sorted(found)}


def _short(paths: Sequence[str]) -> list[str]:
    """Return the parts of paths in which they differ, without those at the beginning and the end that all share."""
    parts = [Path(path).parts for path in paths]
    begin = _alike(parts)
    end = _alike([found[begin:][::-1] for found in parts])
    return [
        "/".join(found[begin : len(found) - end]) or Path(path).name for found, path in zip(parts, paths, strict=True)
    ]


def _alike(parts: Sequence[Sequence[str]]) -> int:
    """Return how many parts at the beginning are the same everywhere."""
    return next((n for n, row in enumerate(zip(*parts, strict=False)) if len({*row}) > 1), min(map(len, parts)))


def _limit(axes: Axes, values: Sequence[float]) -> None:
    """Keep an axis of shares within 0 and 1, and do not magnify tiny differences."""
    if not values or min(values) < 0 or max(values) > 1 or max(values) == 0:
        return
    low, high = axes.get_ylim()
    missing = max(0.0, LEAST_RANGE * max(values) - (high - low)) / 2
    low, high = low - missing, high + missing
    over = max(0.0, high - 1)
    axes.set_ylim(max(0.0, low - over if missing else low), high - over)
