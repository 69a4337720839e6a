"""Inputs that name classes: labels and layouts."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from torch import Tensor

from ldm.batch import Size
from ldm.data.decode import Broken, decode_text
from ldm.data.fields.base import Files
from ldm.data.fields.boxes import BoxesReader
from ldm.files.text import clean_text, lines
from ldm.generation.input.base import Input
from ldm.options.rule import Whole

LAYOUT = "[{label: 3, box: [0.1, 0.2, 0.5, 0.9]}]"
CORNERS = "with corners in fractions of the width and the height of the image, 0 to 1"
NAME = "name"
"""The key of an object in a layout that holds the name of its class, in place of "label"."""

LAYOUT_FILES = "a .json file with one layout, or a .jsonl file with one a line"


class _FiledLayout(list[Any]):
    """A layout that stands in a file.

    Args:
        entries: Its objects.
        place: The file, and the line where it has several.
    """

    def __init__(self, entries: Iterable[Any], place: str) -> None:
        super().__init__(entries)
        self.place = place


class LabelInput(Input):
    """The number or the name of a class, or a list of them."""

    field = "label"
    reads_files = False

    def sources(self, value: Any) -> list[int | str]:
        """Return the numbers and names; see `Input.sources`."""
        found = [
            clean_text(one) if isinstance(one, str) else one for one in (value if isinstance(value, list) else [value])
        ]
        if not found or not all(one if isinstance(one, str) else Whole(0).allows(one) for one in found):
            raise ValueError(
                f"label={value} cannot be; give the number or the name of a class, or a list of them: label=[1,2,3]"
            )
        return found

    def with_numbers(self, source: int | str, number: Callable[[str], int]) -> int:
        """Return the number; see `Input.with_numbers`."""
        return number(source) if isinstance(source, str) else source

    def place(self, source: int | str) -> None:
        """Return None; see `Input.place`."""
        return

    def in_words(self, source: int | str, class_name: Callable[[int], str]) -> str:
        """Return the name; see `Input.in_words`."""
        return source if isinstance(source, str) else class_name(source)

    def size(self, source: int | str) -> None:
        """Return None; see `Input.size`."""
        return

    def read(self, source: int, size: Size, *, resized: bool) -> int:
        """Return the number; see `Input.read`."""
        return source


class LayoutInput(Input):
    """Boxes and what stands in them: a list of {"label": 3, "box": [x0, y0, x1, y1]}, or a file or a folder of them.

    A class has a number or a name: {"label": "heart", ...} and {"name": "heart", ...} are the same.
    """

    field = "boxes"
    reads_files = False

    def sources(self, value: Any) -> list[list[Any]]:
        """Return the layouts; see `Input.sources`."""
        if isinstance(value, list):
            return [self._checked(value, f"layout={value}")]
        path = Path(str(value))
        files = sorted(path.glob("*.json")) if path.is_dir() else [path]
        read = [(_boxes(layout), place) for file in files for layout, place in _layouts(file)]
        found: list[list[Any]] = [_FiledLayout(self._checked(layout, place), place) for layout, place in read]
        if not found:
            raise ValueError(
                f"there is no layout in {value}; give {LAYOUT_FILES}, a folder of .json files, or {LAYOUT}"
            )
        return found

    def with_numbers(self, source: list[Any], number: Callable[[str], int]) -> list[Any]:
        """Return the layout; see `Input.with_numbers`."""
        if not isinstance(source, list):
            return source
        entries = [_with_number(entry, number) for entry in source]
        return entries if (place := self.place(source)) is None else _FiledLayout(entries, place)

    def place(self, source: list[Any]) -> str | None:
        """Return the file, and the line where it has several; see `Input.place`."""
        return source.place if isinstance(source, _FiledLayout) else None

    def in_words(self, source: list[Any], class_name: Callable[[int], str]) -> str:
        """Return the names and boxes; see `Input.in_words`."""
        boxes = [(entry.get(NAME, entry.get("label")), entry.get("box")) for entry in source]
        return f"layout {', '.join(f'{LabelInput().in_words(one, class_name)} {box}' for one, box in boxes) or '[]'}"

    def size(self, source: list[Any]) -> None:
        """Return None; see `Input.size`."""
        return

    def read(self, source: list[Any], size: Size, *, resized: bool) -> Tensor:
        """Return class and corners of the boxes, `(N, 5)`; see `Input.read`."""
        data = json.dumps({"boxes": source}).encode()
        return BoxesReader().read(Files(lambda ending: data), None)

    def _checked(self, layout: Any, place: str) -> list[Any]:
        try:
            self.read(self.with_numbers(layout, lambda name: 0), Size(1, 1), resized=True)
        except Broken as broken:
            raise ValueError(f"{place} is no layout: {broken}; write one like {LAYOUT}, {CORNERS}") from broken
        return list(layout)


def _with_number(entry: Any, number: Callable[[str], int]) -> Any:
    """Return an object of a layout with the number of its class; anything else as it is, for a reader to refuse."""
    if not isinstance(entry, dict) or (NAME in entry and "label" in entry):
        return entry
    name = entry.get(NAME, entry.get("label"))
    if not isinstance(name, str) or not clean_text(name):
        return entry
    return {"label": number(clean_text(name)), "box": entry.get("box")}


def _boxes(layout: Any) -> Any:
    """Return the boxes of an object of a file, as those beside training images are, which says more; else the layout as it is."""
    return layout.get("boxes", layout) if isinstance(layout, dict) else layout


def _layouts(file: Path) -> list[tuple[Any, str]]:
    """Return the layouts in a file, each with its place."""
    try:
        text = decode_text(file.read_bytes())
    except OSError as error:
        raise ValueError(
            f"layout={file} cannot be read ({error.strerror}); give {LAYOUT_FILES}, or {LAYOUT}"
        ) from error
    several = file.suffix.lower() != ".json"
    rows = [(row, f"line {place} of {file}") for place, row in enumerate(lines(text), start=1) if clean_text(row)]
    try:
        return [(json.loads(row), place) for row, place in (rows if several else [(text, str(file))])]
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} is no JSON: {error}; give {LAYOUT_FILES}") from error
