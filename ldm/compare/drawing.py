"""Charts of a comparison: a panel for each metric, a curve for each run, a band for what agrees with what is expected."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from markupsafe import Markup
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from ldm.callback.end_values import NO_ENDS, Curve, EndValues
from ldm.callback.panel import END_MARKER, MARKED, set_log_scale
from ldm.compare.agreement import Expectation, expectations
from ldm.compare.expected import ExpectedCurve, curve_of, is_kept
from ldm.compare.own import PROGRAM
from ldm.compare.table import are_long, names_of, numbered_names
from ldm.files.marks import KEY
from ldm.files.whole import written_whole
from ldm.report.charts import chart, description, thinned
from ldm.report.run_folder import RunFiles

COLUMNS = 4
"""Panels in a row of the picture."""

WIDTH, HEIGHT = 4.2, 3.1
"""Width and height of a panel in inches."""

LETTER = 0.075
"""Approximate width of a letter of the legend, in inches."""

POSITIVE = ("loss", "norm")
"""Words in the names of metrics that have a logarithmic scale, if all their values are positive."""

SEVERAL = 10
"""A metric with a logarithmic scale falls by this factor at least."""

GREY = "#808080"
"""The colour of expected values, which no run has."""

COLORS = (
    *("#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b", "#e377c2", "#bcbd22", "#17becf"),
    *("#393b79", "#637939", "#b0207c"),
)
"""The colours of runs, in their order; further runs repeat them with another kind of line."""

Line = Literal["solid", "dotted", "dashed"]
"""A kind of line, by the name that matplotlib and pages have for it."""

LINES: tuple[Line, ...] = ("solid", "dotted", "dashed")
"""The lines of runs, each for as many as there are colours."""


class LegendEntry(NamedTuple):
    """One line of the legend.

    Attributes:
        label: The text.
        kind: "run", "expected", "band" or "end".
        color: Its colour.
        line: The kind of its line.
    """

    label: str
    kind: str
    color: str = GREY
    line: Line = "solid"


@dataclass(frozen=True)
class MetricPanel:
    """One metric of one stage in all runs.

    Attributes:
        stage: Name of the stage.
        metric: Name of the metric.
        curves: Name of a run -> its values, by steps.
        mean: The expected mean; empty where nothing is expected.
        band: Step -> what is expected there; empty where the spread of seeds is not known.
        styles: Name of a run -> how it is drawn, in this panel as in all.
        ends: Name of a run -> its values at the end of training.
    """

    stage: str
    metric: str
    curves: Mapping[str, Curve]
    mean: Curve
    band: Mapping[int, Expectation]
    styles: Mapping[str, LegendEntry]
    ends: Mapping[str, EndValues]

    @property
    def end(self) -> EndValues:
        """The values of the end, of the first run in which they are drawn apart."""
        return next((ends for ends in self.ends.values() if ends.label), NO_ENDS)

    @property
    def has_ends(self) -> bool:
        """True where values are not joined to the others."""
        return any(self.ends[name].split(self.metric, points)[1] for name, points in self.curves.items())

    def draw(self, axes: Axes) -> None:
        """Draw the panel, without a legend; a wide band runs off its edges, so that the curves fill a third of it at least."""
        values = [value for points in self.curves.values() for _, value in points]
        logarithmic = any(word in self.metric for word in POSITIVE) and min(values) > 0
        logarithmic = logarithmic and max(values) > SEVERAL * min(values)
        self._draw_mean(axes)
        for name, points in self.curves.items():
            line, last = self.ends[name].split(self.metric, points)
            style, marker = self.styles[name], "." if len(line) < MARKED else ""
            axes.plot(*_xy(thinned(line)), color=style.color, linestyle=style.line, linewidth=1.2, marker=marker)
            axes.plot(*_xy(last), color=style.color, linestyle="", marker=END_MARKER, markersize=4.5)
        axes.set_xlabel("step")
        axes.grid(alpha=0.3)
        if logarithmic:
            set_log_scale(axes)
        low, high = axes.get_ylim()
        self._draw_band(axes, floor=min(values) / 2 if logarithmic else None)
        lowest, highest = axes.get_ylim()
        axes.set_ylim(max(lowest, 2 * low - high), min(highest, 2 * high - low))

    def _draw_mean(self, axes: Axes) -> None:
        line, last = self.end.split(self.metric, self.mean)
        axes.plot(*_xy(thinned(line)), color=GREY, linestyle="dashed", linewidth=1.2)
        axes.plot(*_xy(last), color=GREY, linestyle="", marker=END_MARKER, markersize=4.5)

    def _draw_band(self, axes: Axes, *, floor: float | None) -> None:
        """Draw what agrees with what is expected; `floor`: the least value that the axis can show, None for any."""
        line, last = self.end.split(self.metric, self.mean)
        band = [step for step, _ in line if step in self.band]
        ranges = {step: (one.mean - one.width, one.mean + one.width) for step, one in self.band.items()}
        if floor is not None:
            ranges = {step: (max(low, floor), max(high, floor)) for step, (low, high) in ranges.items()}
        if band:
            low, high = zip(*(ranges[step] for step in band), strict=True)
            axes.fill_between(band, low, high, color=GREY, alpha=0.25, linewidth=0)
        for step, _ in last:
            if step in ranges:
                axes.plot(
                    [step, step], ranges[step], color=GREY, alpha=0.4, linewidth=5, solid_capstyle="butt", zorder=1
                )


def panels_of(runs: Sequence[RunFiles], expected: ExpectedCurve | None) -> list[MetricPanel]:
    """Return the panels of a comparison: of what validation has measured first, then of what training has logged.

    Args:
        runs: The runs.
        expected: The expected curve; None: none is known.
    """
    found = list(_panels(runs, expected))
    stages = list(dict.fromkeys(panel.stage for panel in found))
    return sorted(found, key=lambda panel: (stages.index(panel.stage), panel.metric.startswith("train/"), panel.metric))


def legend_of(panels: Sequence[MetricPanel]) -> list[LegendEntry]:
    """Return the one legend of all panels."""
    found = [entry for panel in panels[:1] for entry in panel.styles.values()]
    if any(panel.mean for panel in panels):
        found.append(LegendEntry("expected", "expected", line="dashed"))
    if any(panel.band for panel in panels):
        found.append(LegendEntry("agrees within", "band"))
    labels = dict.fromkeys(panel.end.label for panel in panels if panel.has_ends)
    return [*found, *(LegendEntry(label, "end", "black") for label in labels)]


def draw_all(panels: Sequence[MetricPanel], file: Path) -> None:
    """Draw all panels as one PNG file, which is replaced whole."""
    legend = legend_of(panels)
    columns = min(COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    width = WIDTH * columns
    in_a_row = max(1, int(width / (LETTER * max(len(entry.label) for entry in legend) + 0.6)))
    above = 0.3 + 0.2 * -(-len(legend) // in_a_row)
    figure = Figure(figsize=(width, HEIGHT * rows + above), layout="constrained")
    for number, panel in enumerate(panels, start=1):
        axes = figure.add_subplot(rows, columns, number)
        panel.draw(axes)
        axes.set_title(f"{panel.stage}: {panel.metric}", parse_math=False, fontsize=9)
    drawn = figure.legend(
        [_handle(entry) for entry in legend],
        [entry.label for entry in legend],
        loc="outside upper left",
        ncols=in_a_row,
        fontsize=9,
    )
    for text in drawn.get_texts():
        text.set_parse_math(False)
    with written_whole(file) as draft:
        figure.savefig(draft, dpi=100, format="png", metadata={KEY: PROGRAM})


def charts(panels: Sequence[MetricPanel]) -> dict[str, dict[str, Markup]]:
    """Return stage -> metric -> chart for a page, which has one legend for all."""
    found: dict[str, dict[str, Markup]] = {}
    for number, panel in enumerate(panels):
        text = description(panel.metric, panel.curves)
        found.setdefault(panel.stage, {})[panel.metric] = chart(panel.draw, text, key=f"p{number}", legend=False)
    return found


def _panels(runs: Sequence[RunFiles], expected: ExpectedCurve | None) -> Iterator[MetricPanel]:
    names = names_of(runs)
    labels = numbered_names(names) if are_long(names) else names
    styles = {
        name: LegendEntry(labels[place], "run", COLORS[place % len(COLORS)], LINES[place // len(COLORS) % len(LINES)])
        for place, name in enumerate(names)
    }
    curves: dict[tuple[str, str], dict[str, Curve]] = {}
    ends: dict[str, dict[str, EndValues]] = {}
    for name, run in zip(names, runs, strict=True):
        for stage in run.stages:
            ends.setdefault(stage.name, {})[name] = stage.ends
            for metric, points in stage.curves.items():
                curves.setdefault((stage.name, metric), {})[name] = points
    for (stage_name, metric), of_runs in curves.items():
        if is_kept(metric):
            values = {} if expected is None else expected.values.get((stage_name, metric), {})
            yield MetricPanel(
                stage_name, metric, of_runs, curve_of(values), expectations(values), styles, ends[stage_name]
            )


def _xy(points: Curve) -> tuple[list[int], list[float]]:
    return [step for step, _ in points], [value for _, value in points]


def _handle(entry: LegendEntry) -> Artist:
    """Return the symbol in front of a line of the legend."""
    if entry.kind == "band":
        return Patch(color=GREY, alpha=0.25, linewidth=0)
    if entry.kind == "end":
        return Line2D([], [], color=entry.color, linestyle="", marker=END_MARKER, markersize=4.5)
    return Line2D([], [], color=entry.color, linestyle=entry.line)
