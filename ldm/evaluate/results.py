"""The results of an evaluation, for programs and for people; what is there of other evaluations is kept."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ldm import __version__
from ldm.batch import Size
from ldm.evaluate.own import EARLIER, MARK, RESULTS, TABLE, read_results
from ldm.evaluate.protocol import Protocol
from ldm.files.scores import to_json_numbers
from ldm.files.whole import write_whole

NOTHING = "nothing"
"""The reference where no metric compares with real images."""


def new_results(
    protocol: Protocol, of: str, request: Mapping[str, Any], *, reference: str, count: int, sizes: Collection[Size]
) -> dict[str, Any]:
    """Return results without scores, as processes after the first have them.

    Args:
        protocol: How it is measured.
        of: The model, or the folder of images.
        request: On what the scores depend.
        reference: What images are compared with.
        count: Number of images.
        sizes: Heights and widths that they have.
    """
    return {
        "of": of,
        "protocol": protocol.name,
        "count": count,
        "broken": 0,
        "size": list(next(iter(sizes))) if len(sizes) == 1 else None,
        "reference": reference,
        "published": protocol.published,
        "source": protocol.source,
        "departures": [],
        "doubts": [],
        "collapsed": [],
        "request": request,
        "scores": {},
    }


def write_results(folder: Path, results: Mapping[str, Any], shown: Sequence[str] = ()) -> dict[str, Any]:
    """Write results as JSON and as a table.

    Earlier scores of the same images, compared with the same, stay among them, unless they are measured anew. Results of other
    images go into `results-N.json`, where N is their number of images, and come back with a later evaluation of these.

    Args:
        folder: The folder.
        results: Plain values; `scores` are numbers by name, `published` those of others.
        shown: What the images in the picture were made for.

    Returns:
        What was written: the results, numbers that are not finite as None, and the versions of the programs.
    """
    versions = {"ldm": __version__, "torch": torch.__version__}
    written = {**results, "scores": to_json_numbers(results["scores"]), "versions": versions}
    earlier = read_results(folder / RESULTS)
    if earlier is not None and not _alike(earlier, written):
        _keep(folder, earlier)
        earlier = None
    for kept in (earlier, *_kept(folder)):  # the newest first, whose scores stay
        if kept is not None and _alike(kept, written):
            written = _together(kept, written)
    write_whole(folder / RESULTS, json.dumps(written, indent=2))
    write_whole(folder / TABLE, table(written, shown))
    return written


def table(results: Mapping[str, Any], shown: Sequence[str] = ()) -> str:
    """Return results as a page in Markdown: what was measured, the scores, what to doubt, and how images were made.

    Args:
        results: See `write_results`.
        shown: See `write_results`.
    """
    published: Mapping[str, float] = results["published"]
    lines = [MARK, f"# {results['of']}", ""]
    broken = f" ({results['broken']} broken ones left out)" if results.get("broken") else ""
    size = results.get("size")
    of_size = f" of {size[0]} x {size[1]} pixels" if size else " of several sizes"
    lines += [
        f"{results['count']} images{of_size}{broken}, protocol `{results['protocol']}`, compared with "
        f"{results['reference']}.",
        "",
    ]
    head = ["score", "measured", *(["published"] if published else [])]
    lines += [_row(head), _row(["---"] * len(head))]
    for name in dict.fromkeys([*results["scores"], *published]):
        cells = [name, _number(results["scores"].get(name))]
        lines.append(_row([*cells, _number(published.get(name))] if published else cells))
    if published:
        lines += ["", f"Published: {results['source']}."]
    if departures := results.get("departures"):
        lines += ["", "The protocol was not followed:", "", *(f"- {departure}" for departure in departures)]
    if doubts := [*results["collapsed"], *results["doubts"]]:
        lines += ["", "To doubt:", "", *(f"- {doubt}." for doubt in doubts)]
    lines += ["", _row(["option", "value"]), _row(["---", "---"])]
    lines += [_row([name, _option(value)]) for name, value in _leaves(results.get("request", {}))]
    if shown:
        lines += ["", "Images of `grid.png`, row by row:", "", *(f"{n}. {text}" for n, text in enumerate(shown, 1))]
    return "\n".join(lines).rstrip() + "\n"


def lines_of(results: Mapping[str, Any]) -> list[str]:
    """Return the scores as lines for a terminal."""
    published: Mapping[str, float] = results["published"]
    width = max((len(name) for name in results["scores"]), default=0)
    return [
        f"  {name:{max(width, 28)}} {_number(value)}"
        + (f"  (published: {published[name]:g})" if name in published else "")
        for name, value in results["scores"].items()
    ] + [f"  not as in the protocol: {departure}" for departure in results.get("departures", ())]


def _alike(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Return whether two results are of the same images, compared with the same."""
    keys = ("protocol", "count", "broken", "size", "request", "published", "departures")
    references = {one["reference"], other["reference"]} - {NOTHING}
    return len(references) < 2 and all(one.get(key) == other.get(key) for key in keys)


def _together(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **after,
        "reference": before["reference"] if after["reference"] == NOTHING else after["reference"],
        "doubts": list(dict.fromkeys([*before["doubts"], *after["doubts"]])),
        "scores": {**before["scores"], **after["scores"]},
    }


def _kept(folder: Path) -> Iterator[dict[str, Any] | None]:
    for file in sorted(folder.glob("results-*.json")):
        if EARLIER.fullmatch(file.name):
            yield read_results(file)


def _keep(folder: Path, results: Mapping[str, Any]) -> None:
    """Write results into the first file of their number of images that is free, or holds what they can be added to."""
    number = 1
    while True:
        file = folder / f"results-{results['count']}{'' if number == 1 else f'-{number}'}.json"
        there = read_results(file)
        if there is not None and _alike(there, results):
            results = _together(there, results)
        elif file.exists():
            number += 1
            continue
        write_whole(file, json.dumps(results, indent=2))
        return


def _leaves(node: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Yield name and value of each option; a class by its name alone."""
    if not isinstance(node, dict):
        yield name, node
        return
    for key, value in node.items():
        if key == "_target_":
            yield name, str(value).rpartition(".")[2]
        else:
            yield from _leaves(value, f"{name}.{key}" if name else key)


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _option(value: Any) -> str:
    """Return the value of an option as it is typed: null, true, false."""
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
