"""The results of an evaluation, for programs and for people."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ldm import __version__
from ldm.evaluate.folder import REQUEST, RESULTS, TABLE
from ldm.files.output_folder import OutputFolder
from ldm.files.scores import to_json_numbers
from ldm.files.whole import write_whole


class ScoresFolder(OutputFolder):
    """A folder of results alone, which a later command replaces.

    Args:
        path: The folder; it need not exist.
    """

    def __init__(self, path: str | Path) -> None:
        known = (Path(path) / RESULTS).is_file() and not (Path(path) / REQUEST).exists()
        super().__init__(path, option="out", is_own=lambda name: known and name in (RESULTS, TABLE))


def write_results(folder: Path, results: Mapping[str, Any]) -> dict[str, Any]:
    """Write results as JSON and as a table.

    Args:
        folder: The folder.
        results: Plain values; `scores` are numbers by name, `published` those of others.

    Returns:
        What was written: the results, numbers that are not finite as None, and the versions of the programs.
    """
    versions = {"ldm": __version__, "torch": torch.__version__}
    written = {**results, "scores": to_json_numbers(results["scores"]), "versions": versions}
    write_whole(folder / RESULTS, json.dumps(written, indent=2))
    write_whole(folder / TABLE, table(written))
    return written


def table(results: Mapping[str, Any]) -> str:
    """Return results as a page in Markdown: what was measured, the scores, and what to doubt."""
    published: Mapping[str, float] = results["published"]
    lines = [f"# {results['of']}", ""]
    lines += [f"{results['count']} images, protocol `{results['protocol']}`, compared with {results['reference']}.", ""]
    head = ["score", "measured", *(["published"] if published else [])]
    lines += [_row(head), _row(["---"] * len(head))]
    for name in dict.fromkeys([*results["scores"], *published]):
        cells = [name, _number(results["scores"].get(name))]
        lines.append(_row([*cells, _number(published.get(name))] if published else cells))
    if published:
        lines += ["", f"Published: {results['source']}."]
    lines += ["", *(f"- {doubt}." for doubt in results["doubts"])]
    return "\n".join(lines).rstrip() + "\n"


def lines_of(results: Mapping[str, Any]) -> list[str]:
    """Return the scores as lines for a terminal."""
    published: Mapping[str, float] = results["published"]
    return [
        f"  {name:28} {_number(value)}" + (f"  (published: {published[name]:g})" if name in published else "")
        for name, value in results["scores"].items()
    ]


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
