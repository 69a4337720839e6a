"""Curves of a run from the metrics in its folder, drawn anew at validations."""

from __future__ import annotations

import csv
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import pytorch_lightning as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pytorch_lightning.trainer.states import TrainerFn

from ldm.callback.end_values import Curve, EndValues, read_config, read_end_values
from ldm.callback.panel import LOSSES, ORDERED, draw_panel
from ldm.files.whole import written_whole

Panels = Mapping[str, Sequence[str]]
"""Title of a panel -> the endings of the names of its curves."""

PICTURE = "curves.png"

COLUMNS = (5, 4, 6)
"""Numbers of panels in a row; chosen is the one that leaves no panel alone in its row and the fewest empty places."""

ROOM = 0.45
"""The share by which an axis is lengthened, so that a legend of many curves fits above them."""

FEW = 4
"""The largest number of curves for which the legend lies among them."""

PANEL = (3.9, 3.0)
"""Width and height of a panel in inches, its margins included."""

MARGINS = (0.75, 0.5, 0.1, 0.3)
"""Margins of the axes of each panel, in inches: left, below, right, above."""

SHARE = 0.05
"""The share of a training's time that drawing its curves may take."""


class StagePanel(NamedTuple):
    """A panel of curves of one stage.

    Attributes:
        stage: Name of the stage.
        title: Title of the panel.
        curves: Name of a metric -> its values.
    """

    stage: str
    title: str
    curves: dict[str, Curve]


class Curves(pl.Callback):
    """Draws the curves of the run, those of its earlier stages, too, at each validation; the report at its end draws the last.

    Where validations follow one another so fast that drawing would take more than `SHARE` of the time, some are left out.

    Args:
        run_folder: The run folder.
        panels: Name of a stage -> its panels.
    """

    def __init__(self, run_folder: Path, panels: Mapping[str, Panels]) -> None:
        self.run_folder = run_folder
        self.panels = panels
        self._next = 0.0

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draw, in the first process, what was logged until now, the scores of this validation among it."""
        fitting = trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking
        if trainer.is_global_zero and fitting and (begin := time.monotonic()) >= self._next:
            for logger in trainer.loggers:
                logger.save()
            plot_curves(self.run_folder, self.panels)
            end = time.monotonic()
            self._next = end + (end - begin) / SHARE


def plot_curves(run: Path, stages: Mapping[str, Panels]) -> Path:
    """Draw the losses, scores and speed of a run over its steps.

    Args:
        run: The run folder.
        stages: Name of a stage -> its panels.

    Returns:
        The picture, `curves.png`, which is replaced whole.
    """
    found = {name: list(_panels(run, name, panels)) for name, panels in stages.items()}
    columns = _columns([len(panels) for panels in found.values()])
    rows = [panels[first : first + columns] for panels in found.values() for first in range(0, len(panels), columns)]
    width, height = PANEL[0] * columns, PANEL[1] * max(1, len(rows))
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
    stage_options = read_config(run)
    ends = {name: read_end_values(run / name, stage_options.get(name)) for name in stages}
    for row, panels in enumerate(rows):
        for column, panel in enumerate(panels, start=1):
            axes = figure.add_subplot(len(rows), columns, row * columns + column)
            _draw(axes, panel, ends[panel.stage])
    path = run / PICTURE
    with written_whole(path) as draft:
        figure.savefig(draft, dpi=100, format="png")
    return path


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


def _panels(run: Path, stage: str, panels: Panels) -> Iterator[StagePanel]:
    """Yield the panels of a stage that have curves."""
    for title, curves in curves_of_panels(read_metrics(run / stage / "logs"), panels):
        yield StagePanel(stage, title, curves)


def _columns(counts: Sequence[int]) -> int:
    """Return the number of panels in a row, given the number of panels of each stage; each stage begins a new row."""

    def emptiness(columns: int) -> tuple[int, int]:
        alone = sum(count > 1 and count % columns == 1 for count in counts)
        return alone, columns * sum(-(-count // columns) for count in counts)

    return min(COLUMNS, key=emptiness)


def _draw(axes: Axes, panel: StagePanel, ends: EndValues) -> None:
    """Draw a panel with its title and its legend."""
    draw_panel(axes, panel.title, panel.curves, ends)
    axes.set_title(f"{panel.stage}: {panel.title}", y=1.0, fontsize=9)
    if len(panel.curves) <= FEW:
        axes.legend(fontsize=7)
        return
    low, high = axes.get_ylim()
    above = high * (high / low) ** ROOM if axes.get_yscale() == "log" else high + ROOM * (high - low)
    axes.set_ylim(low, above)
    axes.legend(fontsize=6, ncols=3, loc="upper center", framealpha=0.5)


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
