"""The results of an evaluation, for programs and for people; what is there of other evaluations is kept."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ldm import __version__
from ldm.batch import Size
from ldm.evaluate.own import EARLIER, MARK, RESULTS, TABLE, Results, read_results
from ldm.evaluate.protocol import Protocol
from ldm.files.scores import to_json_numbers
from ldm.files.whole import write_whole
from ldm.options.rule import leaves

NOTHING = "nothing"
"""The reference where no metric compares with real images."""


class Findings(NamedTuple):
    """The findings of an evaluation, once all images are measured.

    Attributes:
        scores: Name -> score.
        warnings: Reasons to doubt the scores.
        collapsed: Reasons for which a score cannot be measured.
        departures: Differences from the protocol.
        shown: Descriptions of the images in the picture.
    """

    scores: Mapping[str, float]
    warnings: Sequence[str] = ()
    collapsed: Sequence[str] = ()
    departures: Sequence[str] = ()
    shown: Sequence[str] = ()


def new_results(
    protocol: Protocol, of: str, request: Mapping[str, Any], *, reference: str, count: int, sizes: Collection[Size]
) -> Results:
    """Return results without scores, as processes after the first have them.

    Args:
        protocol: The protocol.
        of: The model, or the folder of images.
        request: Plain values on which the scores depend.
        reference: The images that they are compared with, in words.
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
        "versions": {"ldm": __version__, "torch": torch.__version__},
    }


def write_results(folder: Path, results: Results, findings: Findings, *, count: int) -> Results:
    """Complete results, and write them as JSON and as a table.

    Earlier scores of the same images, compared with the same, stay among them, unless they are measured anew. Results of other
    images go into `results-N.json`, where N is their number of images, and come back with a later evaluation of these.

    Args:
        folder: The folder.
        results: The results without scores.
        findings: The scores and remarks.
        count: Number of images that could be read.

    Returns:
        What was written.
    """
    written: Results = {
        **results,
        "count": count,
        "broken": results["count"] - count,
        "departures": list(findings.departures),
        "doubts": list(findings.warnings),
        "collapsed": list(findings.collapsed),
        "scores": to_json_numbers(findings.scores),
    }
    earlier = read_results(folder / RESULTS)
    if earlier is not None and not _alike(earlier, written):
        _keep(folder, earlier)
        earlier = None
    for kept in (earlier, *_kept(folder)):  # the newest first, whose scores stay
        if kept is not None and _alike(kept, written):
            written = _together(kept, written)
    write_whole(folder / RESULTS, json.dumps(written, indent=2))
    write_whole(folder / TABLE, table(written, findings.shown))
    return written


def table(results: Results, shown: Sequence[str] = ()) -> str:
    """Return results as a page in Markdown: what was measured, the scores, what to doubt, and how images were made.

    Args:
        results: The results.
        shown: See `Findings`.
    """
    published = results["published"]
    lines = [MARK, f"# {results['of']}", ""]
    broken = f" ({results['broken']} broken ones left out)" if results["broken"] else ""
    size = results["size"]
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
    if departures := results["departures"]:
        lines += ["", "The protocol was not followed:", "", *(f"- {departure}" for departure in departures)]
    if warnings := [*results["collapsed"], *results["doubts"]]:
        lines += ["", "To doubt:", "", *(f"- {warning}." for warning in warnings)]
    lines += ["", _row(["option", "value"]), _row(["---", "---"])]
    for name, value in leaves(results["request"]):
        text = str(value).rpartition(".")[2] if name.endswith("._target_") else _option(value)
        lines.append(_row([name.removesuffix("._target_"), text]))
    if shown:
        lines += ["", "Images of `grid.png`, row by row:", "", *(f"{n}. {text}" for n, text in enumerate(shown, 1))]
    return "\n".join(lines).rstrip() + "\n"


def lines_of(results: Results) -> list[str]:
    """Return the scores as lines for a terminal."""
    published = results["published"]
    width = max((len(name) for name in results["scores"]), default=0)
    return [
        f"  {name:{max(width, 28)}} {_number(value)}"
        + (f"  (published: {published[name]:g})" if name in published else "")
        for name, value in results["scores"].items()
    ] + [f"  not as in the protocol: {departure}" for departure in results["departures"]]


def _alike(one: Results, other: Results) -> bool:
    """Return whether two results are of the same images, compared with the same."""
    keys = ("protocol", "count", "broken", "size", "request", "published", "departures")
    references = {one["reference"], other["reference"]} - {NOTHING}
    return len(references) < 2 and all(one.get(key) == other.get(key) for key in keys)


def _together(before: Results, after: Results) -> Results:
    return {
        **after,
        "reference": before["reference"] if after["reference"] == NOTHING else after["reference"],
        "doubts": list(dict.fromkeys([*before["doubts"], *after["doubts"]])),
        "scores": {**before["scores"], **after["scores"]},
    }


def _kept(folder: Path) -> Iterator[Results | None]:
    for file in sorted(folder.glob("results-*.json")):
        if EARLIER.fullmatch(file.name):
            yield read_results(file)


def _keep(folder: Path, results: Results) -> None:
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


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _option(value: Any) -> str:
    """Return the value of an option as it is typed: null, true, false."""
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
