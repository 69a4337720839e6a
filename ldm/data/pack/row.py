"""One captioned image before it is packed: where it lies, its captions, and what else is known of it."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard

from ldm.data.decode import Broken, decode_text
from ldm.data.pack.files import check_format

Fields = dict[str, Any]

MAX_DEPTH = 50
"""Lists and objects inside one another that a record may have."""


class Row(NamedTuple):
    """One captioned image.

    source    path relative to the folder of images, or a name where the table holds the image itself
    captions  one or more
    record    the other columns, fit for json
    image     bytes of the image's file, where the table holds them
    """

    source: str
    captions: list[str]
    record: Fields
    image: bytes | None = None

    @property
    def key(self) -> str:
        """The sample's name in the shards: the source without dots, at which tar shards would cut it."""
        return self.source.replace(".", "_")


class OtherFile(NamedTuple):
    """A file that is neither an image nor belongs to one: it is counted, but it is no row.

    kind  by which it is counted
    """

    kind: str


Found = tuple[str, Row | Broken | OtherFile]
"""Where something was found, and what."""


class Columns(NamedTuple):
    """Which columns of a table name or hold the image and the caption."""

    image: str
    caption: str


def make_row(fields: Fields, columns: Columns, folder: Path, number: str, plain: Callable[[Any], Any]) -> Row | Broken:
    """Return the row that a table's fields describe, or why there is none.

    Args:
        fields: Values by name of their column.
        columns: Those of the image and of the caption.
        folder: To which the image's path is relative.
        number: Name of an image that the table holds and does not name.
        plain: Turns the value of another column into one that is fit for json.
    """
    image = fields.get(columns.image)
    name, data = (image["path"], image["bytes"]) if is_held(image) else (image, None)
    if isinstance(name, bytes):
        name, data = None, name
    try:
        source = _label(str(name or number)) if isinstance(data, bytes) else find_inside(name, folder)
        check_format(source)
        captions = captions_of(fields.get(columns.caption))
        rest = {key: plain(value) for key, value in fields.items() if key not in (*columns, "caption")}
    except Broken as broken:
        return broken
    return Row(source, captions, rest, data)


def is_held(value: Any) -> TypeGuard[Fields]:
    """Whether a value is an image as Hugging Face datasets store it."""
    return isinstance(value, dict) and {"bytes", "path"} <= value.keys()


def find_inside(name: Any, folder: Path) -> str:
    """Return a path relative to the folder, in its shortest form. Raises Broken where it leads out of it.

    A path with backslashes is read as Windows does, unless there is a file of just this name.
    """
    if not isinstance(name, str) or not name.strip():
        raise Broken("no image named")
    path = os.path.join(folder, _clean(name))
    if "\\" in name and not os.path.lexists(path):
        if re.match(r"[A-Za-z]:|\\\\", name):
            raise Broken("path outside the folder", name)
        path = os.path.join(folder, name.replace("\\", "/"))
    relative = os.path.relpath(path, folder)
    if relative.split(os.sep)[0] == os.pardir:
        raise Broken("path outside the folder", name)
    return relative.replace(os.sep, "/")


def captions_of(value: Any) -> list[str]:
    """Return a text, or the texts of a list, without those that are empty. Raises Broken where none is left."""
    values = value if isinstance(value, list) else [value]
    texts = [decode_text(text.encode("utf-8", "replace")) for text in values if isinstance(text, str)]
    if not any(texts):
        raise Broken("no caption")
    return [text for text in texts if text]


def plain(value: Any, depth: int = 0) -> Any:
    """Return a value fit for json; images and other bytes are left out. Raises Broken where it is nested too deeply."""
    if depth > MAX_DEPTH:
        raise Broken("unreadable row", f"more than {MAX_DEPTH} lists or objects inside one another")
    if isinstance(value, dict):
        return {str(key): plain(inner, depth + 1) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(inner, depth + 1) for inner in value]
    if isinstance(value, bytes) or (isinstance(value, float) and not math.isfinite(value)):
        return None
    return value if value is None or isinstance(value, (str, int, float)) else str(value)


def _label(name: str) -> str:
    """The name of an image that need not be a file: its path without what leads out of a folder."""
    return os.path.normpath("/" + _clean(name)).lstrip("/") or "image"


def _clean(name: str) -> str:
    if any(ord(letter) < 32 or 0xD800 <= ord(letter) < 0xE000 for letter in name):
        raise Broken("unusable file name", ascii(name))
    return name
