"""The files that an evaluation writes, known by what is in them, so that somebody else's of the same name are never replaced."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

from ldm.files.marks import begins_with, is_marked_picture
from ldm.files.output_folder import OutputFolder

PROGRAM = "ldm.evaluate"
"""The program that pictures name."""

MARK = "<!-- ldm.evaluate -->"
"""The first line of our pages in Markdown."""

REQUEST, RESULTS, TABLE, GRID = "evaluation.json", "results.json", "results.md", "grid.png"
"""The files of an evaluation: its request, its scores as JSON and as a page, and some of the images."""

RECONSTRUCTIONS = "reconstructions.png"
"""Some images, and their reconstructions beside them."""

CURVE, PICTURE = "curve.csv", "curve.png"
"""The scores of several checkpoints, as a table and drawn."""

CURVE_HEADS = ("step,checkpoint,images", "place,checkpoint,images")
"""The beginning of the first line of the table."""

IMAGES, PARTS = "images", "parts"
"""Folders of the images, and of what was measured of them."""


class Kind(NamedTuple):
    """A kind of evaluation.

    Attributes:
        words: A description of its folder.
        keys: The keys that its request has at least.
        names: Names of the files and folders that it writes, beside those of scores.
    """

    words: str
    keys: frozenset[str]
    names: tuple[str, ...]


class Results(TypedDict):
    """The results of an evaluation, as `results.json` holds them.

    Attributes:
        of: The model, or the folder of images.
        protocol: Name of the protocol.
        count: Number of images that were measured.
        broken: Number of images that could not be read.
        size: Their height and width; None: they have several.
        reference: The images that they are compared with, in words.
        published: Name of a score -> what was published for it.
        source: Where that was published.
        departures: Differences from the protocol.
        doubts: Reasons to doubt the scores.
        collapsed: Reasons for which a score cannot be measured.
        request: Plain values on which the scores depend.
        scores: Name -> score; None where it is not finite.
        versions: Versions of the programs.
    """

    of: str
    protocol: str
    count: int
    broken: int
    size: list[int] | None
    reference: str
    published: Mapping[str, float]
    source: str
    departures: Sequence[str]
    doubts: Sequence[str]
    collapsed: Sequence[str]
    request: Mapping[str, Any]
    scores: Mapping[str, float | None]
    versions: Mapping[str, str]


GENERATED = Kind(
    "images that a model has made",
    frozenset({"model", "sampler", "guidance", "conditions", "seed", "size"}),
    (REQUEST, GRID, IMAGES, PARTS),
)
FOUND = Kind("measurements of a folder of images", frozenset({"images"}), (REQUEST, GRID, PARTS))
RECONSTRUCTED = Kind("measurements of a first stage", frozenset({"model", "images"}), (REQUEST, RECONSTRUCTIONS, PARTS))
LOSS = Kind("the validation loss of a model", frozenset({"model", "samples"}), (REQUEST, PARTS))

HASH = re.compile(r"[0-9a-f]{16}")
"""The name of a model in a request."""

EARLIER = re.compile(r"results-\d+(-\d+)?\.json")
"""Names of scores that were kept when others took their place."""


def read_json(file: Path) -> Any:
    """Return the content of a JSON file; None where it is missing or is not JSON."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def read_results(file: Path) -> Results | None:
    """Return the results that an evaluation wrote; None where the file is missing, or is anything else."""
    found: Results | None = read_json(file)
    known = {"of", "protocol", "count", "reference", "doubts", "scores", "versions"}
    ours = isinstance(found, dict) and known <= found.keys() and isinstance(found["scores"], dict)
    return found if ours else None


def read_request(folder: Path) -> dict[str, Any] | None:
    """Return the request of the evaluation in a folder; None where there is none that this program wrote."""
    found = read_json(folder / REQUEST)
    return found if isinstance(found, dict) and kind_of(found) is not None else None


def kind_of(request: Mapping[str, Any]) -> Kind | None:
    """Return the kind of the evaluation that a request is of; None where it is of none, and this program did not write it."""
    if GENERATED.keys <= request.keys():
        return GENERATED
    if request.keys() == FOUND.keys:
        return FOUND if str(request["images"]).startswith("folder ") else None
    if not HASH.fullmatch(str(request.get("model"))):
        return None
    return next((kind for kind in (RECONSTRUCTED, LOSS) if kind.keys == request.keys() - {"lora"}), None)


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


def check_folder(path: str | Path, kind: Kind) -> None:
    """Write nothing, and raise ValueError where a folder holds an evaluation of another kind, or anything else.

    Args:
        path: The folder; it need not exist.
        kind: The kind of evaluation that will be written into it.
    """
    earlier = read_request(Path(path))
    there = None if earlier is None else kind_of(earlier)
    if there is not None and there is not kind:
        raise ValueError(
            f"out={path} holds {there.words}, and what is asked for are {kind.words}; choose another folder"
        )
    output_folder(path, kind).check()


def output_folder(path: str | Path, kind: Kind) -> OutputFolder:
    """Return the folder of an evaluation of some kind; it need not exist."""
    folder = Path(path)
    usual = {RESULTS, TABLE, *kind.names}

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
