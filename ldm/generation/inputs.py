"""Inputs: what a command says of images beside prompts: labels, layouts, maps and pictures, given outright or by files."""

from __future__ import annotations

import io
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ldm.batch import Size
from ldm.data.decode import Broken, Header, decode_text
from ldm.data.fields.base import Files
from ldm.data.fields.boxes import BoxesReader
from ldm.data.fields.maps import DepthReader, MapReader, SegmentationReader
from ldm.files.picture import to_tensor
from ldm.files.text import clean_text, lines
from ldm.generation.pictures import find_images, frame_of, open_picture, read_image, read_map_header
from ldm.options.rule import Whole

LAYOUT = "[{label: 3, box: [0.1, 0.2, 0.5, 0.9]}]"
LAYOUT_FILES = "a .json file with one layout, or a .jsonl file with one a line"


class Input(ABC):
    """An option by which a command gives one field of the images.

    Attributes:
        field: Name of the field.
    """

    field: str

    @abstractmethod
    def sources(self, value: Any) -> list[Any]:
        """Return what the option names, one source for each image; a source can be written as JSON.

        Raises:
            ValueError: Where the value cannot be, or a file cannot be read.
        """

    @abstractmethod
    def size(self, source: Any) -> Size | None:
        """Return the size of the images that a source asks for, in pixels; None where it goes with every size."""

    @abstractmethod
    def read(self, source: Any, size: Size, *, resized: bool) -> Any:
        """Return the field of one image.

        Args:
            source: What `sources` gave.
            size: Size of the image.
            resized: Resize what lies on the image until it just covers that size; false: cut away what is too much.

        Raises:
            ValueError: Where it cannot be read.
        """


class LabelInput(Input):
    """The number of a class, or a list of them."""

    field = "label"

    def sources(self, value: Any) -> list[int]:
        """Return the numbers; see `Input.sources`."""
        found = value if isinstance(value, list) else [value]
        if not found or not all(map(Whole(0).allows, found)):
            raise ValueError(f"label={value} cannot be; give the number of a class, or a list of them: label=[1,2,3]")
        return list(found)

    def size(self, source: int) -> None:
        """Return None; see `Input.size`."""
        return

    def read(self, source: int, size: Size, *, resized: bool) -> int:
        """Return the number; see `Input.read`."""
        return source


class LayoutInput(Input):
    """Boxes and what stands in them: a list of {"label": 3, "box": [x0, y0, x1, y1]}, or a file or a folder of them."""

    field = "boxes"

    def sources(self, value: Any) -> list[list[Any]]:
        """Return the layouts; see `Input.sources`."""
        if isinstance(value, list):
            return [self._checked(value, f"layout={value}")]
        path = Path(str(value))
        files = sorted(path.glob("*.json")) if path.is_dir() else [path]
        found = [self._checked(layout, place) for file in files for layout, place in _layouts(file)]
        if not found:
            raise ValueError(
                f"there is no layout in {value}; give {LAYOUT_FILES}, a folder of .json files, or {LAYOUT}"
            )
        return found

    def size(self, source: list[Any]) -> None:
        """Return None; see `Input.size`."""
        return

    def read(self, source: list[Any], size: Size, *, resized: bool) -> Tensor:
        """Return class and corners of the boxes, `(N, 5)`; see `Input.read`."""
        data = json.dumps({"boxes": source}).encode()
        return BoxesReader().read(Files(lambda ending: data), None)

    def _checked(self, layout: Any, place: str) -> list[Any]:
        try:
            self.read(layout, Size(1, 1), resized=True)
        except Broken as broken:
            raise ValueError(f"{place} is no layout: {broken}; write one like {LAYOUT}") from broken
        return list(layout)


class MapInput(Input):
    """A picture of one channel that lies on the image, or a folder of them.

    Args:
        reader: Reads such a field of a sample.
    """

    def __init__(self, reader: MapReader) -> None:
        self.reader = reader
        self.field = reader.name

    def sources(self, value: Any) -> list[str]:
        """Return the files; see `Input.sources`."""
        return _pictures(value, self.field)

    def size(self, source: str) -> Size:
        """Return the size of the map; see `Input.size`."""
        header = read_map_header(source)
        return Size(header.height, header.width)

    def read(self, source: str, size: Size, *, resized: bool) -> Tensor:
        """Return the field, as it is of samples; see `Input.read`."""
        data = Path(source).read_bytes()
        try:
            picture = self.reader.read(Files(lambda ending: data), None)
            header = Header(*picture.size)
            return self.reader.place(picture, frame_of(header, size, resized=resized).placement(header))
        except Broken as broken:
            raise ValueError(f"{source} cannot be read as {self.field}: {broken}") from broken


class PictureInput(Input):
    """A picture that images are to be like, or a folder of them; it goes with every size of the images."""

    field = "image"

    def sources(self, value: Any) -> list[str]:
        """Return the files; see `Input.sources`."""
        return _pictures(value, self.field)

    def size(self, source: str) -> None:
        """Return None; see `Input.size`."""
        return

    def read(self, source: str, size: Size, *, resized: bool) -> Tensor:
        """Return the picture, resized and cut to the size of the image, `(3, H, W)` in [-1, 1]; see `Input.read`."""
        return read_image(source, size)


class LowResolutionInput(Input):
    """A picture of which larger ones are made, or a folder of them."""

    field = "low_resolution"

    def sources(self, value: Any) -> list[str]:
        """Return the files; see `Input.sources`."""
        return _pictures(value, self.field)

    def size(self, source: str) -> None:
        """Return None, since how much larger images become is known by the model alone; see `Input.size`."""
        return

    def read(self, source: str, size: Size, *, resized: bool) -> Tensor:
        """Return the picture as it is, `(3, h, w)` in [-1, 1], whatever the size of the image; see `Input.read`."""
        return to_tensor(open_picture(source))


class ArrayInput(Input):
    """A .npy file with one row for each image, or for one image, or a folder of them."""

    field = "neighbors"

    def sources(self, value: Any) -> list[str]:
        """Return the files; see `Input.sources`."""
        path = Path(str(value))
        files = sorted(path.glob("*.npy")) if path.is_dir() else [path]
        if not files:
            raise ValueError(f"there is no .npy file in {self.field}={value}")
        for file in files:
            self.read(str(file), Size(1, 1), resized=True)
        return [str(file) for file in files]

    def size(self, source: str) -> None:
        """Return None; see `Input.size`."""
        return

    def read(self, source: str, size: Size, *, resized: bool) -> Tensor:
        """Return embeddings, `(K, D)`; see `Input.read`."""
        try:
            found = np.load(io.BytesIO(Path(source).read_bytes()), allow_pickle=False)
        except (OSError, ValueError) as error:
            raise ValueError(f"{self.field}={source} cannot be read as a .npy file: {error}") from error
        if found.ndim != 2 or found.dtype.kind != "f" or not np.isfinite(found).all():
            raise ValueError(
                f"{source} has the shape {found.shape} of {found.dtype}; {self.field} are finite numbers (K, D), K embeddings"
            )
        return torch.from_numpy(found.astype(np.float32))


INPUTS: dict[str, Input] = {
    "label": LabelInput(),
    "layout": LayoutInput(),
    "segmentation": MapInput(SegmentationReader()),
    "depth": MapInput(DepthReader()),
    "image": PictureInput(),
    "neighbors": ArrayInput(),
    "low_resolution": LowResolutionInput(),
}
"""Option of a command -> how it is read."""


def input_rows(values: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return option -> source for each image that some options ask for.

    Args:
        values: Option of `INPUTS` -> its value; those that are None are not given.

    Returns:
        As many rows as the option with the most sources has; an option with one source gives it to all. One empty row
        where nothing is given.

    Raises:
        ValueError: Where an option cannot be read, or two have different numbers of sources.
    """
    found = {name: INPUTS[name].sources(value) for name, value in values.items() if value is not None}
    counts = {name: len(sources) for name, sources in found.items() if len(sources) > 1}
    if len(set(counts.values())) > 1:
        said = " and ".join(f"{name} gives {count}" for name, count in counts.items())
        raise ValueError(f"{said}; give as many of each, or one for all")
    count = max(counts.values(), default=1)
    return [{name: sources[row % len(sources)] for name, sources in found.items()} for row in range(count)]


def picture_size(source: str) -> Size:
    """Return height and width of a picture file as it is seen: upright.

    Raises:
        ValueError: Where it cannot be read as an image.
    """
    picture = open_picture(source)
    return Size(picture.height, picture.width)


def input_size(inputs: Mapping[str, Any], multiple: int) -> Size | None:
    """Return the size of the image that some inputs ask for; None where they go with every size.

    Args:
        inputs: Option -> source.
        multiple: The number of pixels of which height and width are rounded down to a multiple.

    Raises:
        ValueError: Where they ask for different sizes.
    """
    asked = {name: INPUTS[name].size(source) for name, source in inputs.items()}
    sizes = {name: size for name, size in asked.items() if size is not None}
    if len(set(sizes.values())) > 1:
        said = " and ".join(f"{name} is of {size}" for name, size in sizes.items())
        raise ValueError(f"{said}; give size=[height,width], or maps of one size")
    return next((Size(*(max(side // multiple, 1) * multiple for side in size)) for size in sizes.values()), None)


def _pictures(value: Any, name: str) -> list[str]:
    """Return the picture files that an option names, each of which can be opened."""
    try:
        files = find_images(str(value))
    except FileNotFoundError as error:
        raise ValueError(f"{name}={value}: {error}") from error
    for file in files:
        read_map_header(file)
    return files


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
