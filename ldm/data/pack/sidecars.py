"""Images from a folder: each has its caption in a .txt of its name, or in a .json as img2dataset writes it, or none at all."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from ldm.data.decode import Broken, decode_text
from ldm.data.endings import PART_NAMES
from ldm.data.pack.captions import CAPTION_COLUMNS
from ldm.data.pack.class_folders import with_label
from ldm.data.pack.files import check_format, ending_of, looks_like_image, read_file, walk
from ldm.data.pack.parts import find_parts
from ldm.data.pack.row import TELLING_NAMES, Fields, Found, OtherFile, Row, captions_of, find_inside, plain

SIDECAR_ENDINGS = (".txt", ".json")


def read_sidecars(
    folder: Path,
    *,
    leave_out: Path,
    caption_column: str | None = None,
    captionless: bool = False,
    classes: Mapping[str, int] | None = None,
) -> Iterator[Found]:
    """Find all files below a folder, but for hidden ones and the sidecars of images.

    A sidecar is a .txt or .json beside an image with the same stem, its ending in small letters or capitals. All that a .json
    holds becomes the sample's record; the caption is taken from it, too, where there is no text in a .txt. Label maps and other
    parts of an image, like `a.seg.png` beside `a.jpg`, go with it, and an image with one of them, or with a label or boxes in
    its .json, needs no caption. Where no image needs one, a label map whose image is missing is no image itself.

    Args:
        folder: The folder.
        leave_out: A folder inside it that is not looked into.
        caption_column: The name under which a .json has the caption; None: found among CAPTION_COLUMNS.
        captionless: True if no image needs a caption, and no sidecar is read.
        classes: Name -> number of the classes, where the folders directly in `folder` are classes; None: they mean nothing.

    Yields:
        The place of a file, relative to the folder, and its row, or why it cannot be used, or an OtherFile where it has no
        image's ending.
    """
    broken: list[tuple[str, Broken]] = []

    def note(error: OSError) -> None:
        where = os.path.relpath(error.filename, folder)
        broken.append((where, Broken("unreadable folder", error.strerror or "")))

    for path, names in walk(folder, leave_out=leave_out, note=note):
        sidecars = {} if captionless else _sidecars(names)
        stems = {os.path.splitext(name)[0] for name in names if looks_like_image(name)}
        parts = find_parts(name for name in names if not captionless or ending_of(name) not in SIDECAR_ENDINGS)
        used = {name for (stem, _), name in sidecars.items() if stem in stems}
        used.update(name for files in parts.values() for name in files.values())
        for name in names:
            where = os.path.relpath(os.path.join(path, name), folder)
            if captionless and name not in used and name.lower().endswith(PART_NAMES):
                yield where, Broken("no image", "it is named as a file that belongs to an image")
            elif looks_like_image(name) and name not in used:
                stem = os.path.splitext(name)[0]
                text, record = (sidecars.get((stem, ending)) for ending in SIDECAR_ENDINGS)
                place = os.path.dirname(where)
                own = {ending: os.path.join(place, part) for ending, part in parts.get(stem, {}).items()}
                if captionless:
                    yield where, _bare_row(where, folder, own, classes)
                else:
                    yield where, _row(where, folder, Path(path), stem, text, record, own, caption_column, classes)
            elif name not in used:
                yield where, OtherFile(_kind(name, "that is not read" if captionless else "of no image"))
    yield from broken


def _row(
    where: str,
    folder: Path,
    path: Path,
    stem: str,
    text: str | None,
    record: str | None,
    parts: Mapping[str, str],
    column: str | None,
    classes: Mapping[str, int] | None,
) -> Row | Broken:
    """Return the row of an image with these sidecars, or why it cannot be used."""
    try:
        source = find_inside(where, folder)
        check_format(source)
        fields = {} if record is None else plain(_object(path, record))
        if classes is not None:
            fields = with_label(fields, where, parts, classes)
        caption = "" if text is None else decode_text(_read(path, text))
        if caption:
            return Row(source, [caption], fields, parts=parts)
        lower = {name.lower(): name for name in reversed(fields)}
        found = [lower[name] for name in CAPTION_COLUMNS if name in lower] if column is None else [column]
        try:
            return Row(source, captions_of(fields.pop(found[0], None) if found else None), fields, parts=parts)
        except Broken as broken:
            if parts or any(name in fields for name in TELLING_NAMES):
                return Row(source, [], fields, parts=parts)
            wanted = f"no text in {text}" if text else f"no {stem}.txt"
            raise Broken(broken.reason, wanted + (f", and no caption in {record}" if record else "")) from broken
    except Broken as broken:
        return broken


def _bare_row(where: str, folder: Path, parts: Mapping[str, str], classes: Mapping[str, int] | None) -> Row | Broken:
    """Return the row of an image without sidecars, or why it cannot be used."""
    try:
        source = find_inside(where, folder)
        check_format(source)
        return Row(source, [], {} if classes is None else with_label({}, where, parts, classes), parts=parts)
    except Broken as broken:
        return broken


def _object(path: Path, name: str) -> Fields:
    data = _read(path, name)
    try:
        content = json.loads(decode_text(data))
    except (ValueError, RecursionError) as error:
        raise Broken("unreadable sidecar", f"{name}: {error}") from error
    if not isinstance(content, dict):
        raise Broken("unreadable sidecar", f"{name}: not an object {{...}}")
    return content


def _read(path: Path, name: str) -> bytes:
    try:
        return read_file(path / name)
    except Broken as broken:
        raise Broken("unreadable sidecar", f"{name}: {broken}") from broken


def _sidecars(names: Sequence[str]) -> dict[tuple[str, str], str]:
    """Return the names of sidecars by stem and ending in small letters; of `a.txt` and `a.TXT` the former counts."""
    found: dict[tuple[str, str], str] = {}
    for name in names:
        stem, ending = os.path.splitext(name)
        if ending.lower() in SIDECAR_ENDINGS and (ending.islower() or (stem, ending.lower()) not in found):
            found[stem, ending.lower()] = name
    return found


def _kind(name: str, sidecar: str) -> str:
    ending = ending_of(name)
    if ending in SIDECAR_ENDINGS:
        return f"{ending} {sidecar}"
    return ending if re.fullmatch(r"\.[a-z][a-z0-9]{0,7}", ending) else "no usual ending"
