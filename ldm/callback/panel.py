"""One panel of curves, and its axes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.ticker import Formatter, Locator, LogLocator, MaxNLocator, NullFormatter, NullLocator

from ldm.callback.end_values import NO_ENDS, Curve, EndValues

LOSSES = ("loss", "loss by noise level", "gradient norm")
"""Titles of panels with a logarithmic scale."""

FROM_ZERO = ("images per second", "share of time that waits for data")
"""Titles of panels whose scale begins at 0."""

ORDERED = "loss by noise level"
"""The title of the panel whose curves have an order, shown by colours."""

MARKED = 40
"""The number of points below which each one is marked."""

END_MARKER = "D"
"""The marker of scores at the end that are not joined to the others."""

DASH = 4
"""Length of a dash, in widths of the line, of a curve that lies on another one, which shows through."""

NEAR = 0.01
"""The difference, as a share of the axis, up to which two curves lie on each other."""

MOSTLY = 0.6
"""The share of their steps at which two curves lie on each other, above which only one of them would be seen."""

NOT_ALL = " (where above 0)"
"""The note on a curve on a logarithmic scale that has values which are not positive."""

TICKS = 4
"""The least number of labels on an axis."""

STEPS = (1, 2, 5, 10)
"""Distances between two labels on an axis, times a power of ten."""


def draw_panel(axes: Axes, title: str, curves: Mapping[str, Curve], ends: EndValues = NO_ENDS) -> None:
    """Draw the curves of one panel over the steps.

    Args:
        axes: Where to draw.
        title: Title of the panel, by which its scale is chosen; it is not drawn.
        curves: Name -> (step, value), at least one.
        ends: The values at the end of training that are not joined to the others.
    """
    logarithmic = title in LOSSES and any(value > 0 for points in curves.values() for _, value in points)
    shades = colormaps["viridis"](np.linspace(0.2, 0.9, len(curves)))
    span = _span(curves, logarithmic=logarithmic)
    drawn: list[Curve] = []
    for place, (name, points) in enumerate(curves.items()):
        mean = title == ORDERED and name.endswith("loss")
        color = "black" if mean else tuple(shades[place]) if title == ORDERED else f"C{place % 10}"
        draw_curve(
            axes,
            name,
            points,
            color=color,
            ends=ends.split(name, points),
            logarithmic=logarithmic,
            width=2 if mean else 1,
            over=sum(_coincide(points, other, span, logarithmic=logarithmic) for other in drawn),
        )
        drawn.append(points)
    if any(ends.split(name, points)[1] for name, points in curves.items()):
        explain_ends(axes, ends)
    axes.set_xlabel("step")
    axes.grid(alpha=0.3)
    # most of the time of drawing goes into ticks
    axes.xaxis.set_major_locator(MaxNLocator(TICKS, steps=STEPS, integer=True))
    if logarithmic:
        set_log_scale(axes)
        return
    axes.yaxis.set_major_locator(MaxNLocator(TICKS + 1, steps=STEPS))
    if title in FROM_ZERO:
        axes.set_ylim(bottom=0)


def draw_curve(
    axes: Axes,
    name: str,
    points: Curve,
    *,
    color: str | tuple[float, ...],
    ends: tuple[Curve, Curve],
    logarithmic: bool,
    width: float = 1.2,
    over: int = 0,
) -> None:
    """Draw one curve.

    Args:
        axes: Where to draw.
        name: Its name, for the legend.
        points: All its values.
        color: Its colour.
        ends: The values that are joined, and those at ends that are not.
        logarithmic: Whether the axis is logarithmic, so that values which are not positive are left out.
        width: Width of the line.
        over: Number of curves, drawn already, on which it lies; it is dashed so that they show through.
    """
    line, last = ends
    label = name + (NOT_ALL if logarithmic and any(value <= 0 for _, value in points) else "")
    marker = "." if len(line) < MARKED and not over else ""
    style = (DASH * over, (DASH, DASH * over)) if over else "-"
    if line:
        axes.plot(*zip(*line, strict=True), color=color, label=label, linewidth=width, linestyle=style, marker=marker)
    if last:
        axes.plot(
            *zip(*last, strict=True),
            color=color,
            label="" if line else label,
            linestyle="",
            marker=END_MARKER,
            markersize=4.5,
        )


def explain_ends(axes: Axes, ends: EndValues) -> None:
    """Add to the legend what the markers at the end are."""
    axes.plot([], [], color="black", linestyle="", marker=END_MARKER, markersize=4.5, label=ends.label)


def _span(curves: Mapping[str, Curve], *, logarithmic: bool) -> float:
    """Return the length of the axis that curves need."""
    values = [_placed(value, logarithmic) for points in curves.values() for _, value in points]
    finite = [value for value in values if math.isfinite(value)]
    return max(finite, default=0.0) - min(finite, default=0.0)


def _coincide(one: Curve, other: Curve, span: float, *, logarithmic: bool) -> bool:
    """Return whether two curves lie on each other, so that only one would be seen, on an axis of some length."""
    values = dict(other)
    common = [
        (_placed(value, logarithmic), _placed(values[step], logarithmic)) for step, value in one if step in values
    ]
    near = sum(abs(first - second) <= NEAR * span for first, second in common)
    return near > MOSTLY * max(len(one), len(other))


def _placed(value: float, logarithmic: bool) -> float:
    """Return where a value lies on the axis; nan for one that is not on it."""
    return value if not logarithmic else math.log(value) if value > 0 else math.nan


def set_log_scale(axes: Axes) -> None:
    """Make the vertical axis logarithmic, with a few plain numbers, whatever part of a decade it shows."""
    axes.set_yscale("log", nonpositive="mask")
    axes.yaxis.set_major_locator(_FewTicks())
    axes.yaxis.set_major_formatter(_Plain())
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_minor_formatter(NullFormatter())


class _FewTicks(Locator):
    """Chooses ticks of a logarithmic axis: powers of ten, or more where there would be too few of them."""

    def __call__(self) -> Sequence[float]:
        """Return the ticks of the axis as it is."""
        assert self.axis is not None
        low, high = sorted(self.axis.get_view_interval())
        return self.tick_values(low, high)

    def tick_values(self, vmin: float, vmax: float) -> Sequence[float]:
        """Return the ticks between two values."""
        for locator in (LogLocator(subs=(1,)), LogLocator(subs=(1, 3)), LogLocator(subs=(1, 2, 5))):
            found = _inside(locator.tick_values(vmin, vmax), vmin, vmax)
            if len(found) >= TICKS:
                return found
        return _inside(MaxNLocator(TICKS + 1).tick_values(vmin, vmax), vmin, vmax)


class _Plain(Formatter):
    """Writes numbers as 0.02, and not as powers."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        """Return the text at a value."""
        return f"{x:.4g}"


def _inside(ticks: Sequence[float], low: float, high: float) -> list[float]:
    return [float(tick) for tick in ticks if low <= tick <= high and tick > 0]
