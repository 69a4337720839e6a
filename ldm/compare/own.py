"""Telling the files that a comparison has written from those of somebody else which have the same names."""

from __future__ import annotations

from pathlib import Path

from ldm.files.marks import begins_with, is_marked_picture
from ldm.report.page import is_our_page

MARKDOWN, PAGE, PICTURE = FILES = ("compare.md", "compare.html", "compare.png")
"""The files that a comparison writes."""

MARK = "<!-- written by python -m ldm.compare -->"
"""The first line of the Markdown file."""

PROGRAM = "ldm.compare"
"""The program that the picture names."""


def is_own(folder: Path, name: str) -> bool:
    """Return whether a file was written by a comparison, by what is in it.

    Args:
        folder: The folder of the file.
        name: Its name.
    """
    file = folder / name
    if not file.is_file():
        return False
    if name == PAGE:
        return is_our_page(file)
    return (name == MARKDOWN and begins_with(file, MARK)) or (name == PICTURE and is_marked_picture(file, PROGRAM))
