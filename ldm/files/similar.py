"""Names of files that could be meant where there is none of a name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path

SHOWN = 3
"""The number of suggestions where none is similar."""


def similar(path: Path, there: Iterable[Path]) -> list[str]:
    """Return the one of some paths that is most like another, or else the first of them; empty where there are none.

    Args:
        path: A path where nothing is.
        there: Paths where something is.
    """
    names = sorted(map(str, there))
    return difflib.get_close_matches(str(path), names, n=1) or names[:SHOWN]
