"""`python -m ldm.fetch`: check its names, fetch one after the other, and say what to type where they are needed."""

from __future__ import annotations

import difflib
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

from omegaconf import DictConfig

from ldm.config import resolved
from ldm.files.output_folder import OutputFolder
from ldm.pretrained.catalogue import CATALOGUE
from ldm.pretrained.published import HubModel, PublishedWeights

PROGRAMS = {
    "train": "train.py",
    "sample": "sample.py",
    "neighbors": "python -m ldm.data.neighbors",
    "evaluate": "python -m ldm.evaluate",
}
"""Name of a program's config -> how the program is called in a list."""


def main(config: DictConfig) -> None:
    """Run the command.

    Raises:
        ValueError: A name is unknown, or the folder holds what this program did not write; nothing was fetched.
        OSError: Some of the weights could not be had; the others were fetched.
    """
    names = resolved(config.names)
    chosen = _known([names] if isinstance(names, str) else names or [])
    out = None if config.out is None else Path(config.out)
    if not chosen:
        print("\n".join(_listed(out)))
    elif out is None:
        _fetch(chosen, None)
    else:
        targets = {weights.target for weights in CATALOGUE.values()}
        with OutputFolder(out, option="out", is_own=targets.__contains__).lock():
            _fetch(chosen, out)


def _known(names: Sequence[str]) -> list[PublishedWeights]:
    """Return the weights of these names, each once.

    Raises:
        ValueError: There are none of such a name.
    """
    for name in names:
        if name not in CATALOGUE:
            close = difflib.get_close_matches(str(name), CATALOGUE, n=1)
            hint = f"did you mean {close[0]}? " if close else ""
            raise ValueError(
                f"there is nothing to fetch by the name {name!r}; {hint}choose from {', '.join(CATALOGUE)}"
            )
    return [CATALOGUE[name] for name in dict.fromkeys(names)]


def _listed(out: Path | None) -> Iterator[str]:
    """Yield the lines of a list of all weights; whether they are there is looked up in `out`, or else in the caches."""
    rows = [("name", "size", "licence", "there", "what it is", "needed by")]
    for weights in CATALOGUE.values():
        found = weights.cached() if out is None else out / weights.target
        there = "yes" if found is not None and found.exists() else "no"
        needed_by = ", ".join(dict.fromkeys(use.choice for use in weights.uses))
        rows.append((weights.name, _size(weights), weights.licence, there, weights.title, needed_by))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
    yield ""
    yield "python -m ldm.fetch NAME ... fetches them; out=FOLDER puts them into a folder for a machine without internet"


def _fetch(chosen: Sequence[PublishedWeights], out: Path | None) -> None:
    """Fetch weights, and say where they are.

    Raises:
        OSError: Some could not be had.
    """
    places: dict[str, Path] = {}
    failed: dict[str, str] = {}
    for number, weights in enumerate(chosen, start=1):
        print(
            f"{number} of {len(chosen)}: {weights.name}, {weights.title}, {_size(weights)}, {weights.licence}",
            flush=True,
        )
        try:
            places[weights.name] = weights.fetch(out)
        except (OSError, ValueError) as error:
            failed[weights.name] = str(error).strip().partition("\n")[0]
    for name, place in places.items():
        print(f"{name} is in {place}")
    lines = [line for name, place in places.items() for line in _options(CATALOGUE[name], place)]
    if out is not None and lines:
        print("where there is no internet, say where the copy is:", *lines, sep="\n  ")
    if out is None and any(isinstance(CATALOGUE[name], HubModel) for name in places):
        print(
            "training finds it there; without internet set HF_HUB_OFFLINE=1, so that nothing is asked of the hub first"
        )
    if failed:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in failed.items())
        command = shlex.join(["python", "-m", "ldm.fetch", *failed, *(() if out is None else (f"out={out}",))])
        raise OSError(
            f"{len(failed)} of {len(chosen)} could not be fetched. {reasons}. If this machine has no internet, type\n  python -m "
            f"ldm.fetch {' '.join(failed)} out=FOLDER\non one that has, and copy the folder. To try again here:\n  {command}"
        )


def _options(weights: PublishedWeights, place: Path) -> Iterator[str]:
    """Yield the options that take a local copy, each with the program and the choice that needs it."""
    for use in weights.uses:
        yield f"{PROGRAMS[use.program]}: {use.choice} {shlex.quote(f'{use.option}={place}')}"


def _size(weights: PublishedWeights) -> str:
    return f"{weights.megabytes / 1000:.1f} GB"
