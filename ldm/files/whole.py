"""Files that appear whole or not at all, and never in place of somebody else's."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def written_whole(file: Path) -> Iterator[Path]:
    """Yield the path of a draft, which takes the place of the file once it is written, and is deleted after an error.

    The folder of the file is made where it is missing.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        yield draft
        draft.replace(file)
    finally:
        draft.unlink(missing_ok=True)


def write_whole(file: Path, text: str) -> None:
    """Write a text into a file, in UTF-8; see `written_whole`."""
    with written_whole(file) as draft:
        draft.write_text(text, encoding="utf-8")


def set_aside(file: Path) -> None:
    """Rename a file, where it is there, to `NAME-1`, or the next number that is free."""
    if not file.is_file():
        return
    number = 1
    while (kept := file.with_name(f"{file.stem}-{number}{file.suffix}")).exists():
        number += 1
    file.rename(kept)


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
