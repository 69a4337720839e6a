"""Telling the files that a comparison has written from those of somebody else which have the same names."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from ldm.report.page import is_our_page

MARKDOWN, PAGE, PICTURE = FILES = ("compare.md", "compare.html", "compare.png")
"""The files that a comparison writes."""

MARK = "<!-- written by python -m ldm.compare -->"
"""The first line of the Markdown file."""

METADATA = {"Software": "ldm.compare"}
"""Texts inside of the picture."""


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
    return (name == MARKDOWN and _is_markdown(file)) or (name == PICTURE and _is_picture(file))


def _is_markdown(file: Path) -> bool:
    with file.open(encoding="utf-8", errors="replace") as text:
        return text.read(len(MARK)) == MARK


def _is_picture(file: Path) -> bool:
    try:
        with Image.open(file) as picture:
            return METADATA.items() <= picture.info.items()
    except (OSError, ValueError):
        return False
