"""Captioned images as people have them: a table (csv, tsv, jsonl, parquet), or .txt files beside the images."""

from __future__ import annotations

import csv
import json
import math
import os
import re
from collections.abc import Callable, Iterator, Sequence
from glob import glob
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard

from ldm.data.decode import Broken, decode_text

IMAGE_COLUMNS = (
    "file_name filename file file_path filepath path image image_path image_file image_name img img_path jpg png"
).split()
CAPTION_COLUMNS = "caption captions text prompt description sentence title".split()
"""Names under which images and captions are looked for, in any case, the first that there is."""

PICTURE_ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".avif")
"""Of files that are taken for images where no table names them."""

NUMBER = re.compile(r"-?(0|[1-9]\d{0,14})(\.\d{1,17})?([eE][-+]?\d{1,2})?")

Fields = dict[str, Any]


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


class Columns(NamedTuple):
    """Which columns of a table name or hold the image and the caption."""

    image: str
    caption: str


def read_sidecars(folder: Path) -> Iterator[tuple[str, Row | Broken]]:
    """All images below a folder, hidden ones left out, each with the caption of the .txt of its name: where, what."""
    for path, names in _walk(folder):
        for name in names:
            stem, ending = os.path.splitext(name)
            if ending.lower() not in PICTURE_ENDINGS or name.startswith("."):
                continue
            where = os.path.relpath(os.path.join(path, name), folder)
            text = Path(path, f"{stem}.txt")
            try:
                content = decode_text(text.read_bytes())
            except OSError as error:
                yield where, Broken("no caption", f"{text.name}: {error.strerror}")
                continue
            fields = {"image": where, "caption": content}
            yield where, _row(fields, Columns("image", "caption"), folder, where, _plain)


def read_table(
    captions: str, folder: Path, image_column: str | None = None, caption_column: str | None = None
) -> Iterator[tuple[str, Row | Broken]]:
    """All rows of a table, or of several that a glob names: where, what.

    folder          to which the images' paths are relative; none outside it is named by a row that is not Broken
    image_column    None: found among IMAGE_COLUMNS
    caption_column  None: found among CAPTION_COLUMNS

    Raises FileNotFoundError, ValueError and ImportError where the table cannot be read at all.
    """
    for path in find_tables(captions):
        read, plain = READERS[path.suffix.lower()]
        columns: Columns | None = None
        for number, fields in read(path):
            where = f"{path.name}:{number}"
            if isinstance(fields, Broken):
                yield where, fields
                continue
            columns = columns or choose_columns(fields, image_column, caption_column, path)
            yield where, _row(fields, columns, folder, f"{path.stem}/{number:09d}", plain)


def find_tables(captions: str) -> list[Path]:
    """The files that a path or a glob names. Raises FileNotFoundError or ValueError where they are no tables."""
    paths = [Path(captions)] if os.path.exists(captions) else [Path(name) for name in sorted(glob(captions))]
    if not paths:
        raise FileNotFoundError(
            f"no captions at {captions!r}; give a table, or leave captions out for .txt files beside the images"
        )
    for path in paths:
        if path.is_dir():
            inside = [
                name for name in ("metadata.csv", "metadata.jsonl", "metadata.parquet") if (path / name).is_file()
            ]
            hint = f"give captions={path / inside[0]}" if inside else f"for .txt files beside images give images={path}"
            raise ValueError(f"captions={path} is a folder, not a table; {hint}")
        if path.suffix.lower() not in READERS:
            raise ValueError(f"captions={path} is none of {', '.join(READERS)}; convert it to one of them")
    return paths


def choose_columns(fields: Fields, image_column: str | None, caption_column: str | None, path: Path) -> Columns:
    """The columns of the image and of the caption, from the first row. Raises ValueError that lists what there is."""
    held = [name for name, value in fields.items() if isinstance(value, bytes) or _is_held(value)]
    lower = {name.lower(): name for name in reversed(fields)}
    image = [*held, *(lower[name] for name in IMAGE_COLUMNS if name in lower)]
    caption = [lower[name] for name in CAPTION_COLUMNS if name in lower]
    chosen = []
    for option, wanted, found in (("image_column", image_column, image), ("caption_column", caption_column, caption)):
        if wanted is not None and wanted not in fields:
            raise ValueError(f"{path} has no column {wanted!r}; give {option}=NAME, one of {', '.join(fields)}")
        if wanted is None and not found:
            raise ValueError(
                f"{path} has no column with a usual name for {option}; give {option}=NAME, one of {', '.join(fields)}"
            )
        chosen.append(wanted if wanted is not None else found[0])
    return Columns(*chosen)


def _row(fields: Fields, columns: Columns, folder: Path, number: str, plain: Callable[[Any], Any]) -> Row | Broken:
    image = fields.get(columns.image)
    name, data = (image["path"], image["bytes"]) if _is_held(image) else (image, None)
    if isinstance(name, bytes):
        name, data = None, name
    try:
        source = _label(str(name or number)) if isinstance(data, bytes) else _inside(name, folder)
        captions = _captions(fields.get(columns.caption))
    except Broken as broken:
        return broken
    return Row(source, captions, {key: plain(value) for key, value in fields.items() if key not in columns}, data)


def _is_held(value: Any) -> TypeGuard[Fields]:
    """Whether a value is an image as Hugging Face datasets store it."""
    return isinstance(value, dict) and {"bytes", "path"} <= value.keys()


def _inside(name: Any, folder: Path) -> str:
    """A path relative to the folder, in its shortest form. Raises Broken where it leads out of it."""
    if not isinstance(name, str) or not name.strip():
        raise Broken("no image named")
    relative = os.path.relpath(os.path.join(folder, _clean(name)), folder)
    if relative.split(os.sep)[0] == os.pardir:
        raise Broken("path outside the folder", name)
    return relative.replace(os.sep, "/")


def _label(name: str) -> str:
    """The name of an image that need not be a file: its path without what leads out of a folder."""
    return os.path.normpath("/" + _clean(name)).lstrip("/") or "image"


def _clean(name: str) -> str:
    if any(ord(letter) < 32 or 0xD800 <= ord(letter) < 0xE000 for letter in name):
        raise Broken("unusable file name", ascii(name))
    return name


def _captions(value: Any) -> list[str]:
    """A text, or a list of them, without those that are empty. Raises Broken where none is left."""
    values = value if isinstance(value, list) else [value]
    texts = [decode_text(text.encode("utf-8", "replace")) for text in values if isinstance(text, str)]
    if not any(texts):
        raise Broken("no caption")
    return [text for text in texts if text]


def _plain(value: Any) -> Any:
    """A value fit for json; images and other bytes are left out."""
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    if isinstance(value, bytes) or (isinstance(value, float) and not math.isfinite(value)):
        return None
    return value if value is None or isinstance(value, (str, int, float)) else str(value)


def _number(value: str | None) -> Any:
    """A field of a csv: what is written like a number is one, so that samples can be filtered by it."""
    if value is None or not NUMBER.fullmatch(value):
        return value
    return int(value) if value.lstrip("-").isdigit() else _plain(float(value))


def _csv(path: Path) -> Iterator[tuple[int, Fields | Broken]]:
    csv.field_size_limit(2**24)
    with open(path, encoding="utf-8-sig", newline="") as file:
        rows = csv.DictReader(file, delimiter="\t" if path.suffix.lower() == ".tsv" else ",", skipinitialspace=True)
        try:
            for fields in rows:
                more = fields.pop(None, None)  # type: ignore[call-overload]
                yield rows.line_num, Broken("more fields than columns", str(more)) if more else fields
        except (csv.Error, UnicodeDecodeError) as error:
            raise ValueError(
                f"{path} cannot be read after line {rows.line_num}: {error}; save it as UTF-8 csv"
            ) from error


def _jsonl(path: Path) -> Iterator[tuple[int, Fields | Broken]]:
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                fields = json.loads(line)
            except (ValueError, RecursionError) as error:
                yield number, Broken("unreadable row", str(error))
                continue
            yield number, fields if isinstance(fields, dict) else Broken("unreadable row", "not an object {...}")


def _parquet(path: Path) -> Iterator[tuple[int, Fields | Broken]]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise ImportError(f'reading {path} needs pyarrow; type pip install -e ".[parquet]"') from error
    number = 0
    try:
        for batch in parquet.ParquetFile(path).iter_batches(batch_size=64, use_threads=False):
            for fields in batch.to_pylist():
                number += 1
                yield number, fields
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(f"{path} cannot be read after row {number}: {error}; write it again") from error


def _walk(folder: Path) -> Iterator[tuple[str, Sequence[str]]]:
    """Folders and the names of their files in order; links are followed, each folder is seen once."""
    seen: set[str] = set()
    for path, folders, names in os.walk(folder, followlinks=True):
        if os.path.realpath(path) in seen:
            folders.clear()
            continue
        seen.add(os.path.realpath(path))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield path, sorted(names)


READERS: dict[str, tuple[Callable[[Path], Iterator[tuple[int, Fields | Broken]]], Callable[[Any], Any]]] = {
    ".csv": (_csv, _number),
    ".tsv": (_csv, _number),
    ".jsonl": (_jsonl, _plain),
    ".parquet": (_parquet, _plain),
}
"""Ending of a table -> how its rows are read, and how its other columns become json."""
