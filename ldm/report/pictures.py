"""Pictures of a run inside of a page: few of many, made smaller, as data of the page itself."""

from __future__ import annotations

import base64
import io
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from ldm.files.run_names import CAPTIONS
from ldm.files.text import lines

log = logging.getLogger(__name__)

MOST_PICTURES = 6
"""The largest number of steps whose pictures a page shows: the first, the last, and evenly spaced ones between them."""

LONGEST_SIDE = 720
"""Pixels of the longer side; larger pictures are made smaller."""

QUALITY = 82
"""Quality of the WebP files in a page, in [0, 100]."""


MEANINGS = {
    "reconstructions": "Validation images, and below each what the autoencoder makes of it.",
    "samples": "Some of the images that are measured, evenly spread. They are of the same captions or other conditions of the "
    "validation data at each step, except at the end, where more are measured. Above each stands its condition, "
    "where that is a picture.",
    "prompts": "The fixed prompts of this run, in the order of their file, each below what it says where that is a picture.",
}
"""Name of pictures -> what they show, for a reader who has not made the run."""


class InlinePicture(NamedTuple):
    """A picture in a page.

    Attributes:
        step: The step after which it was made.
        source: A URL that holds the picture itself.
        width: Its width in pixels.
        height: Its height in pixels.
        captions: Descriptions of its images, row by row; empty where they are not known.
    """

    step: int
    source: str
    width: int
    height: int
    captions: tuple[str, ...] = ()


class CaptionList(NamedTuple):
    """Captions of images, which some pictures have in common.

    Attributes:
        steps: The steps of these pictures.
        captions: A line for each image, row by row.
    """

    steps: list[int]
    captions: tuple[str, ...]


def inline_pictures(files: Sequence[tuple[int, Path]]) -> list[InlinePicture]:
    """Return pictures of a few steps for a page; one that cannot be read is left out, with a warning.

    Args:
        files: (step, file), in order of steps.
    """
    few = min(len(files), MOST_PICTURES)
    places = {round(number * (len(files) - 1) / max(1, few - 1)) for number in range(few)}
    found = []
    for place in sorted(places):
        step, file = files[place]
        try:
            found.append(_inline(step, file))
        except (OSError, ValueError, Image.DecompressionBombError) as error:
            log.warning("the picture %s is left out of the report: %s", file, error)
    return found


def caption_lists(pictures: Sequence[InlinePicture]) -> list[CaptionList]:
    """Return the captions of pictures, those that several have in common once."""
    found: dict[tuple[str, ...], list[int]] = {}
    for picture in pictures:
        if picture.captions:
            found.setdefault(picture.captions, []).append(picture.step)
    return [CaptionList(steps, captions) for captions, steps in found.items()]


def _inline(step: int, file: Path) -> InlinePicture:
    with Image.open(file) as opened:
        picture = opened.convert("RGB")
    picture.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    written = io.BytesIO()
    picture.save(written, "WEBP", quality=QUALITY)
    data = base64.b64encode(written.getvalue()).decode()
    return InlinePicture(step, f"data:image/webp;base64,{data}", *picture.size, captions=_captions(file))


def _captions(picture: Path) -> tuple[str, ...]:
    """Return the descriptions of a picture's images that are written beside it; empty where there is no such file."""
    file = picture.with_suffix(CAPTIONS)
    return tuple(lines(file.read_text(encoding="utf-8"))) if file.is_file() else ()
