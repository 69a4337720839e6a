"""Curves of a run from the metrics in its folder."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

Panels = Mapping[str, Sequence[str]]
"""Title of a panel -> how the names of its curves end."""


def plot_curves(run: Path, stages: Mapping[str, Panels]) -> Path:
    """Draw the losses and scores of a run over its steps.

    Args:
        run: The run folder.
        stages: Name of a stage -> its panels.

    Returns:
        The picture, `curves.png`.
    """
    panels = list(_panels(run, stages))
    figure = Figure(figsize=(4.2 * max(1, len(panels)), 3.2), layout="constrained")
    for place, (stage, title, curves) in enumerate(panels, start=1):
        axes = figure.add_subplot(1, len(panels), place)
        for name, points in curves.items():
            axes.plot(*zip(*points, strict=True), marker="." if len(points) < 40 else "", label=name, linewidth=1)
        axes.set_title(f"{stage}: {title}")
        axes.set_xlabel("step")
        axes.grid(alpha=0.3)
        if title == "loss":
            axes.set_yscale("log")
        axes.legend(fontsize=7)
    path = run / "curves.png"
    figure.savefig(path, dpi=100)
    return path


def _panels(run: Path, stages: Mapping[str, Panels]) -> Iterator[tuple[str, str, dict[str, list[tuple[int, float]]]]]:
    """Yield stage, title and curves of each panel that has any; a loss that is always zero is not used and none."""
    for stage, titles in stages.items():
        measured = read_metrics(run / stage / "logs")
        for title, names in titles.items():
            curves = {name: points for name, points in measured.items() if name.endswith(tuple(names))}
            if title == "loss":
                curves = {name: points for name, points in curves.items() if any(value for _, value in points)}
            if curves:
                yield stage, title, curves


def read_metrics(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Return name -> (step, value) in order of steps, from all parts of a run that was interrupted and continued."""
    curves: dict[str, dict[int, float]] = {}
    for name, step, value in _rows(folder):
        curves.setdefault(name, {})[step] = value
    return {name: sorted(points.items()) for name, points in curves.items()}


def _rows(folder: Path) -> Iterator[tuple[str, int, float]]:
    """Yield name, step and value, older parts first: what a continuation measures again comes last."""
    for file in sorted(folder.glob("*.csv"), key=lambda path: path.stat().st_mtime):
        with file.open(newline="") as lines:
            for row in csv.DictReader(lines):
                for name, value in row.items():
                    if name not in ("step", "epoch") and value:
                        yield name, int(row["step"]), float(value)
