"""Inputs: what a command says of images beside prompts: labels, layouts, maps and pictures, given outright or by files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ldm.batch import Size
from ldm.data.fields.maps import DepthReader, SegmentationReader
from ldm.generation.input.base import Input
from ldm.generation.input.classes import LabelInput, LayoutInput
from ldm.generation.input.files import ArrayInput, LowResolutionInput, MapInput, PictureInput
from ldm.generation.pictures import open_picture

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
        each = " and ".join(f"{name} gives {count}" for name, count in counts.items())
        raise ValueError(f"{each}; give as many of each, or one for all")
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
        multiple: Height and width are rounded down to multiples of this number of pixels.

    Raises:
        ValueError: Where they ask for different sizes.
    """
    asked = {name: INPUTS[name].size(source) for name, source in inputs.items()}
    sizes = {name: size for name, size in asked.items() if size is not None}
    if len(set(sizes.values())) > 1:
        each = " and ".join(f"{name} is of {size}" for name, size in sizes.items())
        raise ValueError(f"{each}; give size=[height,width], or maps of one size")
    return next((Size(*(max(side // multiple, 1) * multiple for side in size)) for size in sizes.values()), None)
