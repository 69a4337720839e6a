"""Captioned images from tables (csv, tsv, jsonl, parquet) that name images or hold them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from glob import escape, glob
from pathlib import Path

from ldm.data.decode import Broken
from ldm.data.pack.parts import PartFinder
from ldm.data.pack.row import TELLING_NAMES, Columns, Fields, Found, is_held, make_row
from ldm.data.pack.tables import READERS
from ldm.data.pack.unnamed import NamedImages

IMAGE_COLUMNS = (
    "file_name filename file file_path filepath path image image_path image_file image_name img img_path jpg png"
).split()
CAPTION_COLUMNS = "caption captions text prompt description sentence title".split()
"""Usual names of the columns of images and captions; the first that a table has is taken, in small letters or capitals."""


def read_table(
    captions: str, folder: Path, image_column: str | None = None, caption_column: str | None = None, *, leave_out: Path
) -> Iterator[Found]:
    """Read all rows of a table, or of several tables; then find the images of the folder that have none.

    Args:
        captions: Path of a table, or a glob of several.
        folder: Folder to which the images' paths are relative; a row whose image lies outside it is Broken.
        image_column: Name of the column of images; None: found among IMAGE_COLUMNS.
        caption_column: Name of the column of captions; None: found among CAPTION_COLUMNS.
        leave_out: A folder inside that of the images which is not looked into.

    Yields:
        The place of a row, as `file:line`, and the row, or why it cannot be used; the place of an image without a row.

    Raises:
        FileNotFoundError: Where there is no table.
        ValueError: Where a table cannot be read at all, or lacks the columns.
        ImportError: Where a parquet file cannot be read without pyarrow.
    """
    parts_of, named = PartFinder(folder), NamedImages(folder)
    for path in find_tables(captions):
        read, plain = READERS[path.suffix.lower()]
        columns: Columns | None = None
        for number, fields in read(path):
            where = f"{path.name}:{number}"
            if isinstance(fields, Broken):
                yield where, fields
                continue
            columns = columns or choose_columns(fields, image_column, caption_column, path)
            named.add(fields.get(columns.image))
            yield where, make_row(fields, columns, folder, f"{path.stem}/{number:09d}", plain, parts_of)
    yield from named.others(leave_out)


def find_tables(captions: str, images: Path | None = None) -> list[Path]:
    """Return the tables that a path or a glob names.

    Args:
        captions: The path or glob.
        images: The folder of images, in which a table may lie that is not where it was looked for; None: unknown.

    Raises:
        FileNotFoundError: Where it names no file.
        ValueError: Where a file is no table.
    """
    paths = [Path(captions)] if os.path.exists(captions) else [Path(name) for name in sorted(glob(_pattern(captions)))]
    if not paths:
        there = images is not None and (images / captions).is_file()
        raise FileNotFoundError(
            f"no captions at {captions!r}; "
            + (f"did you mean captions={images / captions}? " if images is not None and there else "")
            + "Give a table, leave captions out for .txt files beside the images, or type "
            "captions=none for images without captions"
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
    """Return the folder that holds all the tables that a path or a glob names.

    Raises:
        FileNotFoundError: Where it names no file.
        ValueError: Where a file is no table, or the tables lie in several folders.
    """
    folders = sorted({path.parent for path in find_tables(captions)})
    if len(folders) > 1:
        raise ValueError(f"captions={captions} are in {len(folders)} folders; say with images=FOLDER where images are")
    return folders[0]


def choose_columns(fields: Fields, image_column: str | None, caption_column: str | None, path: Path) -> Columns:
    """Choose the columns of images and captions by the names and values of a table's first row.

    Args:
        fields: The first row, values by name of their column.
        image_column: Name that was asked for; None: a column that holds images, or the first usual name.
        caption_column: Name that was asked for; None: the first usual name, which a table of labels or boxes need not have.
        path: The table, for errors.

    Raises:
        ValueError: Where there is no such column; it lists the columns.
    """
    held = [name for name, value in fields.items() if isinstance(value, bytes) or is_held(value)]
    lower = {name.lower(): name for name in reversed(fields)}
    image = [*held, *(lower[name] for name in IMAGE_COLUMNS if name in lower)]
    caption: list[str | None] = [lower[name] for name in CAPTION_COLUMNS if name in lower]
    if not caption and not fields.keys().isdisjoint(TELLING_NAMES):
        caption = [None]
    chosen: list[str | None] = []
    for option, wanted, found in (("image_column", image_column, image), ("caption_column", caption_column, caption)):
        if wanted is not None and wanted not in fields:
            raise ValueError(f"{path} has no column {wanted!r}; give {option}=NAME, one of {', '.join(fields)}")
        if wanted is None and not found:
            raise ValueError(
                f"{path} has no column with a usual name for {option}; give {option}=NAME, one of {', '.join(fields)}"
            )
        chosen.append(wanted if wanted is not None else found[0])
    image_name, caption_name = chosen
    assert image_name is not None
    return Columns(image_name, caption_name)


def _pattern(captions: str) -> str:
    """Return a glob in which special signs in the names of folders that exist are taken literally."""
    for folder in Path(captions).parents:
        if folder.is_dir() and str(folder) != ".":
            return os.path.join(escape(str(folder)), os.path.relpath(captions, folder))
    return captions
