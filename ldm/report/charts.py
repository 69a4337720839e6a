"""Charts as SVG inside of a page: their text and axes have the colours of the page, dark or light."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping

from markupsafe import Markup, escape
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ldm.callback.end_values import NO_ENDS, Curve, EndValues
from ldm.callback.panel import draw_panel

WIDTH, HEIGHT = 4.2, 2.3
"""Width of a chart, and the height of its axes, in inches of 72 units."""

LEFT, BELOW, LEGEND = 0.58, 0.46, 0.17
"""Room for the numbers at the left and for those below the axes, and the height of a line of the legend, in inches."""

LONG = 24
"""The length of a name above which the names in a legend stand below one another."""

MOST_POINTS = 400
"""The largest number of points of a curve that are drawn; of more, evenly spaced ones."""

INK = "#000000"
"""The colour that the library draws text and axes in, in whose place comes that of the page."""


def chart_of_panel(title: str, curves: Mapping[str, Curve], *, key: str, ends: EndValues = NO_ENDS) -> Markup:
    """Return one panel of curves as an `<svg>` element.

    Args:
        title: Title of the panel.
        curves: Name -> (step, value).
        key: A word that no other chart of the page has.
        ends: The values at the end of training that are not joined to the others.
    """
    few = {name: thinned(points) for name, points in curves.items()}
    return chart(lambda axes: draw_panel(axes, title, few, ends), description(title, curves), key=key)


def chart(draw: Callable[[Axes], None], text: str, *, key: str, legend: bool = True) -> Markup:
    """Return a chart as an `<svg>` element.

    Args:
        draw: Draws into the axes that it is given.
        text: A description of the chart, for those who do not see it.
        key: A word that no other chart of the page has; inside of the page the names of its parts begin with it.
        legend: Whether the names of the curves stand below the axes.
    """
    with rc_context(
        {
            "svg.fonttype": "none",
            "svg.hashsalt": key,
            "text.parse_math": False,
            "legend.frameon": False,
            "font.size": 9,
            "axes.spines.top": False,
            "axes.spines.right": False,
        }
    ):
        figure = Figure()
        axes = figure.add_subplot()
        draw(axes)
        handles, labels = axes.get_legend_handles_labels() if legend else ([], [])
        columns = 1 if max(map(len, labels), default=0) > LONG else 2
        below = BELOW + LEGEND * -(-len(labels) // columns)
        figure.set_size_inches(WIDTH, HEIGHT + below)
        figure.subplots_adjust(LEFT / WIDTH, below / (HEIGHT + below), 0.955, 0.97)
        if labels:
            figure.legend(
                handles, labels, loc="lower left", ncols=columns, fontsize=8.5, borderpad=0, borderaxespad=0.2
            )
        written = io.StringIO()
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(written, format="svg", transparent=True, metadata=nothing)
    svg = written.getvalue()
    svg = svg[svg.index("<svg") :].replace(INK, "currentColor")
    svg = re.sub(r"<style.*?</style>", "", svg, flags=re.DOTALL)  # it would be one for the whole page
    svg = re.sub(r" font-family: [^;\"]*;", "", svg)
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{key}-", svg)
    label = escape(text)
    svg = re.sub(r'<svg [^>]*?(viewBox="[^"]*")[^>]*>', rf'<svg \1 role="img" aria-label="{label}">', svg, count=1)
    return Markup(svg)  # the library escapes the texts in it


def thinned(points: Curve) -> Curve:
    """Return at most `MOST_POINTS` points of a curve, evenly spread, the first and the last among them."""
    if len(points) <= MOST_POINTS:
        return points
    last = len(points) - 1
    return [points[round(place * last / (MOST_POINTS - 1))] for place in range(MOST_POINTS)]


def description(title: str, curves: Mapping[str, Curve]) -> str:
    """Describe a panel in words: its curves with their first and last values."""
    ends = [
        f"{name} from {points[0][1]:.4g} at step {points[0][0]} to {points[-1][1]:.4g} at step {points[-1][0]}"
        for name, points in curves.items()
    ]
    return f"{title}: {'; '.join(ends)}"
