"""Captioned images as people have them in tables (csv, tsv, jsonl, parquet) that name images or hold them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from glob import escape, glob
from pathlib import Path

from ldm.data.decode import Broken
from ldm.data.pack.row import Columns, Fields, Found, is_held, make_row
from ldm.data.pack.tables import READERS

IMAGE_COLUMNS = (
    "file_name filename file file_path filepath path image image_path image_file image_name img img_path jpg png"
).split()
CAPTION_COLUMNS = "caption captions text prompt description sentence title".split()
"""Names under which images and captions are looked for, in any case, the first that there is."""


def read_table(
    captions: str, folder: Path, image_column: str | None = None, caption_column: str | None = None
) -> Iterator[Found]:
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
            yield where, make_row(fields, columns, folder, f"{path.stem}/{number:09d}", plain)


def find_tables(captions: str) -> list[Path]:
    """The files that a path or a glob names. Raises FileNotFoundError or ValueError where they are no tables."""
    paths = [Path(captions)] if os.path.exists(captions) else [Path(name) for name in sorted(glob(_pattern(captions)))]
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


def table_folder(captions: str) -> Path:
    """The folder in which all tables are that a path or a glob names. Raises ValueError where they are in several."""
    folders = sorted({path.parent for path in find_tables(captions)})
    if len(folders) > 1:
        raise ValueError(f"captions={captions} are in {len(folders)} folders; say with images=FOLDER where images are")
    return folders[0]


def choose_columns(fields: Fields, image_column: str | None, caption_column: str | None, path: Path) -> Columns:
    """The columns of the image and of the caption, from the first row. Raises ValueError that lists what there is."""
    held = [name for name, value in fields.items() if isinstance(value, bytes) or is_held(value)]
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


def _pattern(captions: str) -> str:
    """A glob in which the folders that exist just as they are written are taken as they are."""
    for folder in Path(captions).parents:
        if folder.is_dir() and str(folder) != ".":
            return os.path.join(escape(str(folder)), os.path.relpath(captions, folder))
    return captions
