"""Curves of a run from the metrics in its folder, drawn anew at each validation."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytorch_lightning as pl
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter
from pytorch_lightning.trainer.states import TrainerFn

Panels = Mapping[str, Sequence[str]]
"""Title of a panel -> how the names of its curves end."""

PICTURE = "curves.png"

COLUMNS = 5
"""Panels in a row; each stage begins a new one."""

PANEL = (3.9, 3.0)
"""Width and height of a panel in inches, its margins included."""

MARGINS = (0.75, 0.5, 0.1, 0.3)
"""What is left free beside the axes of each panel, in inches: left, below, right, above."""

LOSSES = ("loss", "loss by noise level", "gradient norm")
"""Titles of panels with a logarithmic scale."""

FROM_ZERO = ("images per second", "share of time that waits for data")
"""Titles of panels whose scale begins at 0."""

ORDERED = "loss by noise level"
"""The title of the panel whose curves are in an order, which colours show."""

Curve = list[tuple[int, float]]


class Curves(pl.Callback):
    """Draws the curves of the run, those of its earlier stages, too, at each validation; the report at its end draws the last.

    Args:
        run_folder: The run folder.
        panels: Name of a stage -> its panels.
    """

    def __init__(self, run_folder: Path, panels: Mapping[str, Panels]) -> None:
        self.run_folder = run_folder
        self.panels = panels

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draw, in the first process, what was logged until now, the scores of this validation among it."""
        if trainer.is_global_zero and trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking:
            for logger in trainer.loggers:
                logger.save()
            plot_curves(self.run_folder, self.panels)


def plot_curves(run: Path, stages: Mapping[str, Panels]) -> Path:
    """Draw the losses, scores and speed of a run over its steps.

    Args:
        run: The run folder.
        stages: Name of a stage -> its panels.

    Returns:
        The picture, `curves.png`, which is replaced whole.
    """
    rows = [row for stage, panels in stages.items() for row in _rows_of_panels(run, stage, panels)]
    width, height = PANEL[0] * COLUMNS, PANEL[1] * max(1, len(rows))
    figure = Figure(figsize=(width, height))
    left, bottom, right, top = MARGINS
    figure.subplots_adjust(  # a layout that matplotlib looks for takes longer than all the drawing
        left=left / width,
        bottom=bottom / height,
        right=1 - right / width,
        top=1 - top / height,
        wspace=(left + right) / (PANEL[0] - left - right),
        hspace=(bottom + top) / (PANEL[1] - bottom - top),
    )
    for row, panels in enumerate(rows):
        for column, (stage, title, curves) in enumerate(panels, start=1):
            axes = figure.add_subplot(len(rows), COLUMNS, row * COLUMNS + column)
            draw_panel(axes, title, curves)
            axes.set_title(f"{stage}: {title}", y=1.0)
            axes.legend(fontsize=6, ncols=2, framealpha=0.5) if len(curves) > 4 else axes.legend(fontsize=7)
    path = run / PICTURE
    draft = path.with_name(f".{PICTURE}")
    figure.savefig(draft, dpi=100, format="png")
    draft.replace(path)
    return path


def draw_panel(axes: Axes, title: str, curves: Mapping[str, Curve]) -> None:
    """Draw the curves of one panel over the steps.

    Args:
        axes: Where to draw.
        title: Title of the panel, by which its scale is chosen; it is not drawn.
        curves: Name -> (step, value), at least one.
    """
    shades = colormaps["viridis"](np.linspace(0.2, 0.9, len(curves)))
    for place, (name, points) in enumerate(curves.items()):
        mean = title == ORDERED and name.endswith("loss")
        axes.plot(
            *zip(*points, strict=True),
            marker="." if len(points) < 40 else "",
            label=name,
            linewidth=2 if mean else 1,
            color="black" if mean else shades[place] if title == ORDERED else None,
        )
    style_panel(axes, title)


class _PlainLogFormatter(LogFormatter):
    """Writes the numbers of a logarithmic axis as 0.02 and not as a power, at those ticks that the library chooses."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        """Return the text at a value; "" where there is none."""
        return f"{x:.4g}" if super().__call__(x, pos) else ""


def style_panel(axes: Axes, title: str) -> None:
    """Give a panel its grid, the name of its horizontal axis and the scale that its title asks for."""
    axes.set_xlabel("step")
    axes.grid(alpha=0.3)
    if title in LOSSES:
        axes.set_yscale("log", nonpositive="mask")
        axes.yaxis.set_major_formatter(_PlainLogFormatter())
        axes.yaxis.set_minor_formatter(_PlainLogFormatter())
    elif title in FROM_ZERO:
        axes.set_ylim(bottom=0)


def curves_of_panels(measured: Mapping[str, Curve], panels: Panels) -> Iterator[tuple[str, dict[str, Curve]]]:
    """Yield title and curves of the panels that have any.

    Args:
        measured: Name -> (step, value).
        panels: Title -> how the names of its curves end.
    """
    for title, names in panels.items():
        curves = {name: points for name, points in measured.items() if name.endswith(tuple(names))}
        if title in LOSSES:  # one that is always zero is not used and none
            curves = {name: points for name, points in curves.items() if any(value for _, value in points)}
        if curves:
            yield title, dict(sorted(curves.items())) if title == ORDERED else curves


def _rows_of_panels(run: Path, stage: str, panels: Panels) -> Iterator[list[tuple[str, str, dict[str, Curve]]]]:
    """Yield rows of stage, title and curves of the panels that have any, as many in a row as fit."""
    found = [(stage, *panel) for panel in curves_of_panels(read_metrics(run / stage / "logs"), panels)]
    for first in range(0, len(found), COLUMNS):
        yield found[first : first + COLUMNS]


def read_metrics(folder: Path) -> dict[str, Curve]:
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
                if None in row.values():  # a line that is being written
                    continue
                for name, value in row.items():
                    if name not in ("step", "epoch") and value:
                        yield name, int(row["step"]), float(value)
