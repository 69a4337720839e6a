"""The page of a run: one HTML file that needs nothing else."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from ldm import __version__
from ldm.callback.curves import curves_of_panels
from ldm.files.whole import write_whole
from ldm.report.charts import chart_of_panel
from ldm.report.notes import notes
from ldm.report.pictures import MEANINGS, CaptionList, InlinePicture, caption_lists, inline_pictures
from ldm.report.record import now
from ldm.report.run_folder import RunFiles, StageFiles
from ldm.report.secrets import without_secrets

REPORT_FILE = "report.html"
"""The file in a run folder with its report."""

MARK = '<meta name="generator" content="ldm">'
"""The text by which a page is known as one that this program has written."""


class StagePart(NamedTuple):
    """Parts of a page that show one stage.

    Attributes:
        files: The content of its folder.
        charts: Title -> panel of curves.
        pictures: Name -> pictures, in order of steps.
        captions: Name of pictures -> what their images were made for.
    """

    files: StageFiles
    charts: dict[str, Markup]
    pictures: dict[str, list[InlinePicture]]
    captions: dict[str, list[CaptionList]]


def write_report(run: RunFiles, file: Path) -> None:
    """Write the report of a run.

    Args:
        run: The run.
        file: The HTML file, which is replaced whole.

    Raises:
        OSError: If it cannot be written.
    """
    stages = list(_stages(run))
    config = yaml.safe_dump(without_secrets(run.config), allow_unicode=True, sort_keys=False, width=110)
    page = render("report.html", run=run, stages=stages, notes=notes(run), config=config, meanings=MEANINGS)
    write_whole(file, page)


def render(template: str, **parts: Any) -> str:
    """Return a page of one of our templates, in which every text is escaped.

    Args:
        template: Name of a file in `templates/`.
        parts: The variables of the template, beside the date, the version and `shown`.
    """
    pages = Environment(
        loader=PackageLoader("ldm.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    pages.filters["shown"] = shown
    pages.filters["moment"] = moment
    pages.filters["named"] = named
    written = moment(now())
    return pages.get_template(template).render(written=written, version=__version__, mark=Markup(MARK), **parts)


def shown(value: float | None) -> str:
    """Return a number as tables show it: counts whole, others with four digits, "" for None."""
    if value is None:
        return ""
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}" if math.isfinite(value) else str(value)


def named(name: str) -> Markup:
    """Return the name of a score as pages show it: with its unit where it has one, and broken between its words."""
    unit = " (dB)" if name.endswith("psnr") else ""
    return Markup("").join(part + Markup("<wbr>") if part in "/_" else part for part in re.split("([/_])", name)) + unit


def moment(text: str) -> str:
    """Return a time of ISO 8601 as pages show it: to the minute, in UTC."""
    try:
        return datetime.fromisoformat(text).astimezone(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    except ValueError:
        return text


def is_our_page(file: Path) -> bool:
    """Return whether a file is a page that this program has written."""
    try:
        with file.open(encoding="utf-8") as text:
            return MARK in text.read(1000)
    except (OSError, ValueError):
        return False


def _stages(run: RunFiles) -> Iterator[StagePart]:
    for place, stage in enumerate(run.stages):
        charts = {
            title: chart_of_panel(title, curves, key=f"s{place}c{number}", ends=stage.ends)
            for number, (title, curves) in enumerate(curves_of_panels(stage.curves, stage.panels))
        }
        pictures = {name: inline_pictures(files) for name, files in stage.pictures.items()}
        captions = {name: caption_lists(inline) for name, inline in pictures.items()}
        yield StagePart(stage, charts, pictures, captions)
