"""Charts of a comparison: a panel for each metric, a curve for each run, a band for what is expected."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ldm.callback.end_values import Curve
from ldm.compare.agreement import Expectation, expectations
from ldm.compare.expected import ExpectedCurve, curve_of, is_kept
from ldm.compare.table import names_of
from ldm.report.charts import chart, description, thinned
from ldm.report.run_folder import RunFiles

COLUMNS = 4
"""Panels in a row of the picture."""

POSITIVE = ("loss", "norm")
"""Words in the names of metrics that have a logarithmic scale, if all their values are positive."""

SEVERAL = 10
"""A metric with a logarithmic scale falls by this factor at least."""

MARKED = 40
"""Points below which each is marked."""


@dataclass(frozen=True)
class MetricPanel:
    """One metric of one stage in all runs.

    Attributes:
        stage: Name of the stage.
        metric: Name of the metric.
        curves: Name of a run -> its values, by steps.
        mean: The expected mean; empty where nothing is expected.
        band: Step -> what is expected there; empty where the spread of seeds is not known.
    """

    stage: str
    metric: str
    curves: Mapping[str, Curve]
    mean: Curve
    band: Mapping[int, Expectation]

    def draw(self, axes: Axes) -> None:
        """Draw the panel."""
        if self.mean:
            axes.plot(
                *zip(*thinned(self.mean), strict=True), color="#808080", linestyle="--", linewidth=1.2, label="expected"
            )
        if self.band:
            low = [one.mean - one.width for one in self.band.values()]
            high = [one.mean + one.width for one in self.band.values()]
            axes.fill_between(
                list(self.band), low, high, color="#808080", alpha=0.25, linewidth=0, label="spread of seeds"
            )
        for name, points in self.curves.items():
            marker = "." if len(points) < MARKED else ""
            axes.plot(*zip(*thinned(points), strict=True), marker=marker, linewidth=1.2, label=name)
        axes.set_xlabel("step")
        axes.grid(alpha=0.3)
        values = [value for points in self.curves.values() for _, value in points]
        if any(word in self.metric for word in POSITIVE) and min(values) > 0 and max(values) > SEVERAL * min(values):
            axes.set_yscale("log", nonpositive="mask")


def panels_of(runs: Sequence[RunFiles], expected: ExpectedCurve | None) -> list[MetricPanel]:
    """Return the panels of a comparison: of what validation has measured first, then of what training has logged.

    Args:
        runs: The runs.
        expected: The expected curve; None: none is known.
    """
    found = list(_panels(runs, expected))
    stages = list(dict.fromkeys(panel.stage for panel in found))
    return sorted(found, key=lambda panel: (stages.index(panel.stage), panel.metric.startswith("train/"), panel.metric))


def draw_all(panels: Sequence[MetricPanel], file: Path) -> None:
    """Draw all panels as one PNG file, which is replaced whole."""
    rows = -(-len(panels) // COLUMNS)
    figure = Figure(figsize=(4.2 * COLUMNS, 3.1 * rows), layout="constrained")
    for number, panel in enumerate(panels, start=1):
        axes = figure.add_subplot(rows, COLUMNS, number)
        panel.draw(axes)
        axes.set_title(f"{panel.stage}: {panel.metric}", parse_math=False, fontsize=9)
        axes.legend(fontsize=7)
    draft = file.with_name(f".{file.name}")
    figure.savefig(draft, dpi=100, format="png")
    draft.replace(file)


def charts(panels: Sequence[MetricPanel]) -> dict[str, dict[str, Markup]]:
    """Return stage -> metric -> chart for a page."""
    found: dict[str, dict[str, Markup]] = {}
    for number, panel in enumerate(panels):
        told = description(panel.metric, panel.curves)
        found.setdefault(panel.stage, {})[panel.metric] = chart(panel.draw, told, key=f"p{number}")
    return found


def _panels(runs: Sequence[RunFiles], expected: ExpectedCurve | None) -> Iterator[MetricPanel]:
    curves: dict[tuple[str, str], dict[str, Curve]] = {}
    for name, run in zip(names_of(runs), runs, strict=True):
        for stage in run.stages:
            for metric, points in stage.curves.items():
                curves.setdefault((stage.name, metric), {})[name] = points
    for (stage_name, metric), of_runs in curves.items():
        if is_kept(metric):
            values = {} if expected is None else expected.values.get((stage_name, metric), {})
            yield MetricPanel(stage_name, metric, of_runs, curve_of(values), expectations(values))
