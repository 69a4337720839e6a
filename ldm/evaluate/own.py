"""The files that an evaluation writes, known by what is in them, so that somebody else's of the same name are never replaced."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from ldm.files.marks import begins_with, is_marked_picture
from ldm.files.output_folder import OutputFolder

PROGRAM = "ldm.evaluate"
"""The program that pictures name."""

MARK = "<!-- ldm.evaluate -->"
"""How our pages in Markdown begin."""

REQUEST, RESULTS, TABLE, GRID = "evaluation.json", "results.json", "results.md", "grid.png"
"""What each image is made of; the scores; the same to read; some of the images."""

RECONSTRUCTIONS = "reconstructions.png"
"""Some images, and their reconstructions beside them."""

CURVE, PICTURE = "curve.csv", "curve.png"
"""The scores of several checkpoints, as a table and drawn."""

CURVE_HEADS = ("step,checkpoint,images", "place,checkpoint,images")
"""How the first line of the table begins."""

IMAGES, PARTS = "images", "parts"
"""Folders of the images, and of what was measured of them."""

EARLIER = re.compile(r"results-\d+(-\d+)?\.json")
"""Names of scores that were kept when others took their place."""


def read_json(file: Path) -> Any:
    """Return what a JSON file holds; None where it is missing or no JSON."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def read_results(file: Path) -> dict[str, Any] | None:
    """Return the results that an evaluation wrote; None where the file is missing, or is anything else."""
    found = read_json(file)
    ours = (
        isinstance(found, dict)
        and {"of", "protocol", "count", "reference", "doubts", "scores", "versions"} <= found.keys()
    )
    return found if ours and isinstance(found["scores"], dict) else None


def read_request(folder: Path) -> dict[str, Any] | None:
    """Return what an evaluation in a folder is of; None where there is none that this program wrote."""
    found = read_json(folder / REQUEST)
    if not isinstance(found, dict):
        return None
    of_model = {"model", "sampler", "guidance", "conditions", "seed", "size"} <= found.keys()
    of_folder = set(found) == {"images"} and str(found["images"]).startswith("folder ")
    return found if of_model or of_folder else None


def is_own(file: Path) -> bool:
    """Return whether an evaluation wrote a file, or a folder that belongs to one."""
    if file.name in (IMAGES, PARTS):
        return file.is_dir() and read_request(file.parent) is not None
    if EARLIER.fullmatch(file.name):
        return read_results(file) is not None
    known = _KNOWN.get(file.name)
    return known is not None and known(file)


def is_evaluated(folder: Path) -> bool:
    """Return whether a folder holds an evaluation, finished or not."""
    return read_request(folder) is not None or read_results(folder / RESULTS) is not None


def output_folder(path: str | Path, names: Collection[str]) -> OutputFolder:
    """Return the folder of an evaluation.

    Args:
        path: The folder; it need not exist.
        names: Names of files, beside those of scores, that this kind of evaluation writes.
    """
    folder = Path(path)
    usual = {RESULTS, TABLE, *names}

    def replaceable(name: str) -> bool:
        return (name in usual or EARLIER.fullmatch(name) is not None) and is_own(folder / name)

    return OutputFolder(folder, option="out", is_own=replaceable)


_KNOWN: dict[str, Callable[[Path], bool]] = {
    REQUEST: lambda file: read_request(file.parent) is not None,
    RESULTS: lambda file: read_results(file) is not None,
    TABLE: lambda file: begins_with(file, MARK),
    GRID: lambda file: is_marked_picture(file, PROGRAM),
    RECONSTRUCTIONS: lambda file: is_marked_picture(file, PROGRAM),
    PICTURE: lambda file: is_marked_picture(file, PROGRAM),
    CURVE: lambda file: begins_with(file, CURVE_HEADS),
}
