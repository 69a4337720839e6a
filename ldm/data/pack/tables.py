"""Readers of tables: csv and tsv by the module csv, jsonl by the module json, parquet by pyarrow."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO

from ldm.data.decode import Broken
from ldm.data.pack.files import looks_like_image
from ldm.data.pack.row import Fields, plain

MAX_FIELD = 2**24
"""The greatest number of characters in one field of a csv."""

NUMBER = re.compile(r"-?(0|[1-9]\d{0,14})(\.\d{1,17})?([eE][-+]?\d{1,2})?")

NumberedFields = tuple[int, Fields | Broken]
"""Number of a line (or row) of a file, counted from 1, and its fields, or why they cannot be read."""


class _Lines:
    """Iterate over the lines of a file, and remember those that were taken for the current row."""

    def __init__(self, file: TextIO) -> None:
        self.file = file
        self.number = 0
        self.taken: list[str] = []
        self.ended = False

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line = next(self.file, None)
        if line is None:
            self.ended = True
            raise StopIteration
        self.number += 1
        self.taken.append(line)
        return line


class _OpenQuoteError(ValueError):
    """An error: a quote takes more lines into a field than belong there."""


def read_csv(path: Path) -> Iterator[NumberedFields]:
    """Read comma- or semicolon-separated values, or tab-separated ones, with a line of names at the top.

    A quoted field may have line breaks. Where a closing quote was forgotten, the field would go on through the following
    rows. This is recognised by any of three signs: the quote is still open at the end of the file; the quote that closes it
    is followed by more text; two or more of the row's lines each have as many fields as there are columns, one of them the
    name of an image.

    Args:
        path: The file, in UTF-8.

    Yields:
        Line and fields of each row, by the names at the top; fields that are missing at its end are None.

    Raises:
        ValueError: Where a quote was forgotten, or the file cannot be read as text.
    """
    csv.field_size_limit(MAX_FIELD)
    with open(path, encoding="utf-8-sig", newline="") as file:
        lines = _Lines(file)
        names: list[str] = []
        try:
            for number, values in _values(lines, _delimiter(file, path)):
                if not names and isinstance(values, list):
                    names = _names(values, path)
                elif isinstance(values, Broken):
                    yield number, values
                elif len(values) > len(names):
                    yield number, Broken("more fields than columns", str(values[len(names) :]))
                else:
                    yield number, dict(zip(names, [*values, *[None] * (len(names) - len(values))]))
        except _OpenQuoteError as error:
            raise ValueError(
                f"{path}, line {error}: a quote is opened in this row and takes the following rows into the field; close it, "
                'write a quote inside quotes twice (""), or save the table as jsonl'
            ) from error
        except UnicodeDecodeError as error:
            raise ValueError(
                f"{path} cannot be read after line {lines.number}: {error}; save it as UTF-8 csv"
            ) from error


def _delimiter(file: TextIO, path: Path) -> str:
    """Return what stands between the fields: commas, or where the first line has none, semicolons or tabs; tabs in a .tsv."""
    if path.suffix.lower() == ".tsv":
        return "\t"
    names = file.readline()
    file.seek(0)
    return "," if "," in names else max(",;\t", key=names.count)


def _values(lines: _Lines, delimiter: str) -> Iterator[tuple[int, list[str] | Broken]]:
    """Yield the first line and the fields of each row, the row of names first.

    Raises:
        _OpenQuoteError: Where a quote was forgotten.
    """
    reader = csv.reader(lines, delimiter=delimiter, skipinitialspace=True, strict=True)
    columns = 0
    while True:
        lines.taken.clear()
        number = lines.number + 1
        try:
            values: list[str] | Broken = next(reader)
        except StopIteration:
            return
        except csv.Error:
            if lines.ended or len(lines.taken) > 1:
                raise _OpenQuoteError(number) from None
            values = _leniently(lines.taken[0], delimiter)
        if len(lines.taken) > 1 and _hides_rows(lines.taken, columns, delimiter):
            raise _OpenQuoteError(number)
        if values:
            columns = columns or (1 if isinstance(values, Broken) else len(values))
            yield number, values


def _leniently(line: str, delimiter: str) -> list[str] | Broken:
    """Return the fields of one line whose quotes are wrong."""
    try:
        return next(csv.reader([line], delimiter=delimiter, skipinitialspace=True))
    except csv.Error as error:
        return Broken("unreadable row", str(error))


def _hides_rows(lines: list[str], columns: int, delimiter: str) -> bool:
    """Return True where two or more lines look like rows of their own."""
    rows = 0
    for line in lines:
        values = next(csv.reader([line], delimiter=delimiter, quoting=csv.QUOTE_NONE))
        rows += len(values) == columns > 1 and any(looks_like_image(value.strip(' "')) for value in values)
    return rows > 1


def _names(values: list[str], path: Path) -> list[str]:
    twice = sorted({name for name in values if name and values.count(name) > 1})
    if twice:
        raise ValueError(f"{path} has more than one column {twice[0]!r}; give each a name of its own")
    return values


def read_jsonl(path: Path) -> Iterator[NumberedFields]:
    """Read lines of json objects.

    Args:
        path: The file, in UTF-8.

    Yields:
        Line and fields of each object; empty lines are passed over.
    """
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


def read_parquet(path: Path) -> Iterator[NumberedFields]:
    """Read a parquet file.

    Args:
        path: The file.

    Yields:
        Row, counted from 1, and its fields.

    Raises:
        ImportError: Where pyarrow is not installed.
        ValueError: Where the file is damaged.
    """
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


def number_or_text(value: str | None) -> Any:
    """Return a field of a csv as a number where it is written like one, so that samples can be filtered by it."""
    if value is None or not NUMBER.fullmatch(value):
        return value
    return int(value) if value.lstrip("-").isdigit() else plain(float(value))


READERS: dict[str, tuple[Callable[[Path], Iterator[NumberedFields]], Callable[[Any], Any]]] = {
    ".csv": (read_csv, number_or_text),
    ".tsv": (read_csv, number_or_text),
    ".jsonl": (read_jsonl, plain),
    ".parquet": (read_parquet, plain),
}
"""For each ending of a table, the function that reads its rows, and the one that makes its other columns fit for json."""
