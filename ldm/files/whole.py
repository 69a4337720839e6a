"""Small text files that appear whole or not at all, and never in the place of somebody else's."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any


def write_whole(file: Path, text: str) -> None:
    """Write a text into a file, in UTF-8; the file appears whole or not at all, and its folder is made where it is missing."""
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        draft.write_text(text, encoding="utf-8")
        draft.replace(file)
    finally:
        draft.unlink(missing_ok=True)


def check_own_json(file: Path, is_own: Callable[[Any], bool], *, example: str) -> None:
    """Check that a program may write its JSON file: nothing is there, or what it has written itself.

    Args:
        file: The file, which the user has named by `out=`.
        is_own: Called with the content of a file that is there; returns True where the program has written it.
        example: The name of such a file, for the error.

    Raises:
        ValueError: If the file would replace something else.
    """
    try:
        free = not file.exists() or is_own(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, AttributeError):
        free = False
    if not free:
        raise ValueError(f"out={file} was not written by this program; choose another file, like out={example}")
