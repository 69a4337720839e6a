"""Picture files that a command names: found, and read upright, at the size that is asked for."""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from ldm.batch import Size
from ldm.data.decode import Broken, Header, decode_image, open_image, read_header
from ldm.data.pack.files import PICTURE_ENDINGS, UNREAD_ENDINGS, ending_of
from ldm.data.transforms import Frame, ImageTransform
from ldm.files.picture import from_levels
from ldm.generation.folder import GRID, RECORD

log = logging.getLogger(__name__)

USUAL = ("jpg", "png", "webp", "gif", "bmp", "avif", "tif")
"""Endings of image files, as errors name them; others of the same formats are read, too."""

NAMED = 3
"""The number of files that a message names."""


def find_images(path: str) -> list[str]:
    """Return an image file, or all in a folder, by name; the picture of all images in a folder of samples is left out.

    Images of a folder in formats that are not read are left out, and a warning names them.

    Raises:
        FileNotFoundError: Where there is none.
    """
    if Path(path).is_file():
        return [path]
    unread: list[str] = []
    if Path(path).is_dir():
        files = sorted(file for file in Path(path).iterdir() if not file.name.startswith(".") and file.is_file())
        unread = [file.name for file in files if ending_of(file.name) in UNREAD_ENDINGS]
        found = [file for file in files if ending_of(file.name) in PICTURE_ENDINGS and not _is_grid(file)]
        if found and unread:
            log.warning("left out of %s, since their formats are not read: %s", path, _named(unread))
        if found:
            return [str(file) for file in found]
    there = f"; what is there is not read: {_named(unread)}" if unread else ""
    raise FileNotFoundError(f"no image at {path}{there}; give a file, or a folder of {', '.join(USUAL)} files")


def _is_grid(file: Path) -> bool:
    """Return whether a file is the picture of all images in a folder of samples."""
    return file.name == GRID and (file.parent / RECORD).is_file()


def _named(names: Sequence[str]) -> str:
    """Return the first of some names, and how many more there are."""
    return ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")


def read_image(path: str, size: int | Sequence[int]) -> Tensor:
    """Return an image file, resized and cut at the centre as validation images are, `(3, H, W)` in [-1, 1].

    Args:
        path: The file.
        size: Height and width in pixels; one number for squares.

    Raises:
        ValueError: Where it cannot be read as an image.
    """
    with _reading(path) as data:
        levels = ImageTransform(size)(data, random.Random(0)).levels
    return from_levels(torch.tensor(levels).permute(2, 0, 1))


def frame_of(picture: Header | Image.Image, size: Size, *, resized: bool) -> Frame:
    """Return which part of a picture is shown.

    Args:
        picture: The picture, or its size.
        size: Size of the part.
        resized: Resize the picture until it just covers that size, and cut at the centre. False: only cut at the centre; a
            picture that is too small is resized all the same.
    """
    left, top = (picture.width - size.width) // 2, (picture.height - size.height) // 2
    if resized or left < 0 or top < 0:
        return Frame.centre(picture, size)
    whole = (picture.width, picture.height)
    return Frame(whole, whole, (left, top, left + size.width, top + size.height))


def open_picture(path: str, *, background: str = "white") -> Image.Image:
    """Return a picture file, upright, RGB.

    Args:
        path: The file.
        background: Colour behind transparent pixels.

    Raises:
        ValueError: Where it cannot be read as an image.
    """
    with _reading(path) as data:
        return decode_image(data, background=background)


def open_mask(path: str) -> Image.Image:
    """Return a mask as gray levels; what is transparent is black."""
    return open_picture(path, background="black").convert("L")


def read_size(path: str) -> Size:
    """Return height and width of a picture file as it is seen: upright. Only the header is decoded.

    Raises:
        ValueError: Where it cannot be read as an image.
    """
    with _reading(path) as data:
        width, height = read_header(data)
    return Size(height, width)


def read_map_header(path: str) -> Header:
    """Return the size of a picture file as it is stored. Only the header is decoded.

    Raises:
        ValueError: Where it cannot be read as an image.
    """
    with _reading(path) as data:
        return Header(*open_image(data).size)


@contextmanager
def _reading(path: str) -> Iterator[bytes]:
    """Yield the bytes of a picture file; an error in reading or decoding them becomes a ValueError that names the file."""
    try:
        yield Path(path).read_bytes()
    except Broken as broken:
        raise _unreadable(path, broken) from broken
    except OSError as error:
        raise _unreadable(path, error.strerror) from error


def _unreadable(path: str, reason: object) -> ValueError:
    if not Path(path).exists():
        return ValueError(f"there is no image at {path}; give a file")
    return ValueError(f"{path} cannot be read as an image: {reason}; give another")
