"""Names of files that could be meant where there is none of a name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path

from ldm.files.run_names import CONFIG_FILE, RUNS

SHOWN = 3
"""The number of suggestions where none is similar."""


def similar(path: Path, there: Iterable[Path]) -> list[str]:
    """Return the one of some paths that is called or written like another, or else the first of them; empty where there are none.

    Args:
        path: A path where nothing is.
        there: Paths where something is.
    """
    names = sorted(map(str, there))
    same = [name for name in names if Path(name).name == path.name]
    return same[:1] or difflib.get_close_matches(str(path), names, n=1) or names[:SHOWN]


def runs_near(path: Path) -> list[Path]:
    """Return the folders of runs that could be meant by a path where nothing is: those beside it, and one in `runs`."""
    beside = [file.parent for file in path.parent.glob(f"*/{CONFIG_FILE}")]
    names = [file.parent.name for file in RUNS.glob(f"*/{CONFIG_FILE}")]
    close = [RUNS / name for name in difflib.get_close_matches(path.name, names, n=1)]
    return list(dict.fromkeys([*beside, *close]))
