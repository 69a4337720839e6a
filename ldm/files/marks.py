"""Marks by which a program knows the files that it has written, so that it never replaces anybody else's."""

from __future__ import annotations

from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ldm.files.whole import written_whole

KEY = "Software"
"""The name of the text in a PNG file that says which program wrote it."""


def save_marked(picture: Image.Image, file: Path, program: str) -> None:
    """Write a picture as PNG that says which program wrote it; the file appears whole or not at all."""
    info = PngInfo()
    info.add_text(KEY, program)
    with written_whole(file) as draft:
        picture.save(draft, format="png", pnginfo=info)


def is_marked_picture(file: Path, program: str) -> bool:
    """Return whether a file is a PNG that says that a program wrote it."""
    try:
        with Image.open(file, formats=("PNG",)) as picture:
            return picture.info.get(KEY) == program
    except (OSError, ValueError, SyntaxError):
        return False


def begins_with(file: Path, beginnings: str | tuple[str, ...]) -> bool:
    """Return whether a file is a text in UTF-8 that begins in one of some ways."""
    try:
        with file.open(encoding="utf-8") as text:
            return text.read(1000).startswith(beginnings)
    except (OSError, ValueError):
        return False
