"""A captioned image before it is packed: its place, its captions, and what else its table says of it."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard

from ldm.data.decode import Broken, decode_text
from ldm.data.endings import PARTS
from ldm.data.pack.files import check_format

Fields = dict[str, Any]

TELLING_NAMES = ("label", "boxes")
"""Names in a .json that say what an image shows; they are those of the fields that are read from them."""

MAX_DEPTH = 50
"""The greatest depth of lists and objects inside one another in a record."""


class Row(NamedTuple):
    """A captioned image.

    Attributes:
        source: Path relative to the folder of images, or a name where the table holds the image itself.
        captions: One caption or more; none where other files or the record say what the image shows.
        record: Values of the other columns, fit for json.
        image: Bytes of the image's file, where the table holds them; else None.
        parts: Other files of the sample: ending, like "seg.png" -> path relative to the folder of images.
    """

    source: str
    captions: list[str]
    record: Fields
    image: bytes | None = None
    parts: Mapping[str, str] = {}

    @property
    def key(self) -> str:
        """Return the sample's name in the shards: the source without dots, since a name in a shard ends at its first dot."""
        return self.source.replace(".", "_")

    @property
    def fields(self) -> set[str]:
        """Return the names of the fields that are read from the sample, beside its image."""
        record = {name for name in TELLING_NAMES if self.record.get(name) is not None}
        return {*record, *(PARTS[ending] for ending in self.parts), *(["caption"] if self.captions else [])}


class OtherFile(NamedTuple):
    """A file that is neither an image nor belongs to one: it is counted, but it is no row.

    Attributes:
        kind: Name under which it is counted.
    """

    kind: str


Found = tuple[str, Row | Broken | OtherFile]
"""A place, for messages, and the thing that was found there."""


class Columns(NamedTuple):
    """Names of the columns of a table that hold, or name, the image and the caption; None: there are no captions."""

    image: str
    caption: str | None


def make_row(
    fields: Fields,
    columns: Columns,
    folder: Path,
    number: str,
    plain: Callable[[Any], Any],
    parts_of: Callable[[str], Mapping[str, str]],
) -> Row | Broken:
    """Return the row that a table's fields describe, or why it cannot be used.

    Args:
        fields: Values by name of their column.
        columns: Names of the columns of image and caption.
        folder: Folder to which the image's path is relative.
        number: Name for an image that the table holds but does not name.
        plain: Function that turns the value of another column into one that is fit for json.
        parts_of: Function that gives the other files of an image of the folder. An image with one of them, or with a label
            or boxes in the table, needs no caption.
    """
    image = fields.get(columns.image)
    name, data = (image["path"], image["bytes"]) if is_held(image) else (image, None)
    if isinstance(name, bytes):
        name, data = None, name
    try:
        source = _label(str(name or number)) if isinstance(data, bytes) else find_inside(name, folder)
        check_format(source)
        rest = {key: plain(value) for key, value in fields.items() if key not in (*columns, "caption")}
        parts = {} if isinstance(data, bytes) else parts_of(source)
        needed = not parts and all(rest.get(name) is None for name in TELLING_NAMES)
        captions = captions_of(fields.get(columns.caption or "caption"), needed=needed)
    except Broken as broken:
        return broken
    return Row(source, captions, rest, data, parts)


def is_held(value: Any) -> TypeGuard[Fields]:
    """Return True where a value is an image as Hugging Face datasets store it: its bytes and its path."""
    return isinstance(value, dict) and {"bytes", "path"} <= value.keys()


def find_inside(name: Any, folder: Path) -> str:
    """Return a path relative to the folder, in its shortest form.

    A path with backslashes is read as Windows does, unless there is a file of just this name.

    Args:
        name: Path as a table gives it, relative to the folder or absolute.
        folder: The folder.

    Raises:
        Broken: Where there is no path, or it leads out of the folder, or holds control characters.
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


def captions_of(value: Any, *, needed: bool = True) -> list[str]:
    """Return a text, or the texts of a list, without those that are empty.

    Args:
        value: The text or texts.
        needed: Whether there must be one.

    Raises:
        Broken: Where no text is left, and one is needed.
    """
    values = value if isinstance(value, list) else [value]
    texts = [decode_text(text.encode("utf-8", "replace")) for text in values if isinstance(text, str)]
    if needed and not any(texts):
        raise Broken("no caption")
    return [text for text in texts if text]


def plain(value: Any, depth: int = 0) -> Any:
    """Return a value fit for json; images and other bytes become null, and so do numbers that are not finite.

    Args:
        value: Any value of a table.
        depth: Number of lists and objects around it.

    Raises:
        Broken: Where it is nested more than `MAX_DEPTH` deep.
    """
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
    """Return a name for an image that need not be a file: its path without parts that lead out of a folder."""
    return os.path.normpath("/" + _clean(name)).lstrip("/") or "image"


def _clean(name: str) -> str:
    if any(ord(letter) < 32 or 0xD800 <= ord(letter) < 0xE000 for letter in name):
        raise Broken("unusable file name", ascii(name))
    return name
