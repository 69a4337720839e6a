"""Tables of captions that images are generated for, like the 30,000 captions of COCO 2014 of MLPerf's evaluation."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

from ldm.data.decode import Broken
from ldm.data.pack.tables import read_csv
from ldm.files.text import clean_text


class CaptionRow(NamedTuple):
    """One row of a table of captions.

    Attributes:
        key: Name of the caption, which no other row has.
        image: Name of the image that it was written for.
        caption: The text.
    """

    key: str
    image: str
    caption: str


def read_caption_table(
    path: str | Path, *, key: str = "id", image: str = "image_id", caption: str = "caption"
) -> list[CaptionRow]:
    """Read a table of captions: tab-separated in a .tsv, else comma-separated, with the names of its columns at the top.

    Quotes are those of the module csv: a quoted caption may hold tabs and line breaks, and `""` in it is one quote.

    Args:
        path: The table, in UTF-8.
        key: The column with the name of each caption.
        image: The column with the name of the image.
        caption: The column with the text, which may be empty: an image for which nothing is said.

    Returns:
        The rows, in their order. Other columns are left out.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If a column is missing, a row has more or fewer fields than there are columns, a key or image is empty, a key
            comes twice, a quote is not closed, or there are no rows; the error names the line.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"no table of captions at {path}; give a .tsv with the columns {key}, {image}, {caption}"
        )
    rows: list[CaptionRow] = []
    lines: dict[str, int] = {}
    for line, fields in read_csv(path):
        if isinstance(fields, Broken):
            raise ValueError(f"{path}, line {line}: {fields}; mend the row")
        _check_columns(path, fields, (key, image, caption))
        values = [_field(path, line, name, fields[name]) for name in (key, image, caption)]
        for name, value in zip((key, image), values):
            if not value:
                raise ValueError(f"{path}, line {line}: the field {name!r} is empty; fill it, or delete the row")
        row = CaptionRow(*values)
        if row.key in lines:
            raise ValueError(
                f"{path}, line {line}: the {key} {row.key!r} is that of line {lines[row.key]} already; give each caption its own"
            )
        lines[row.key] = line
        rows.append(row)
    if not rows:
        raise ValueError(
            f"{path} has no captions; give a table with a line of names at the top, and a row for each caption"
        )
    return rows


def _check_columns(path: Path, there: Collection[str], wanted: Collection[str]) -> None:
    """Raise ValueError where a column is missing."""
    if missing := [name for name in wanted if name not in there]:
        raise ValueError(
            f"{path} has no column {missing[0]!r}, but {', '.join(map(repr, there))}; name the columns in its first line"
        )


def _field(path: Path, line: int, name: str, value: str | None) -> str:
    """Return the text of a field. Raises ValueError where the row ends before it."""
    if value is None:
        raise ValueError(f"{path}, line {line}: the row ends before its {name!r}; mend it, or delete it")
    return clean_text(value)
