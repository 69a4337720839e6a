"""Files beside an image that fields are read from: label maps, depth, masks, arrays; see `ldm.data.endings`."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from PIL import Image

from ldm.data.decode import PILLOW_ERRORS, Broken, Header, decode_array, decode_text, in_proportion, open_image
from ldm.data.endings import PARTS
from ldm.data.pack.files import looks_like_image
from ldm.data.values import whole_numbers

CAPTIONS = (".txt", ".json")

LEVELS = ("seg.png", "depth.png", "weight.png")
"""Endings of pictures of one channel; a mask may have several."""


def find_parts(names: Iterable[str]) -> dict[str, dict[str, str]]:
    """Find the parts of the images of one folder.

    `a.seg.png` is a part of the images named `a` (`a.jpg`), unless it has a caption of its own, `a.seg.txt`. A part of an
    image has no parts. Of `a.seg.png` and `a.SEG.png` the former counts.

    Args:
        names: Names of all files of the folder.

    Returns:
        Stem of an image -> ending of a part -> its name.
    """
    names = list(names)
    captioned = {os.path.splitext(name)[0] for name in names if os.path.splitext(name)[1].lower() in CAPTIONS}
    images: dict[str, list[str]] = {}
    for name in filter(looks_like_image, names):
        images.setdefault(os.path.splitext(name)[0], []).append(name)
    found: dict[str, dict[str, str]] = {}
    taken: set[str] = set()
    for name in sorted(names, key=lambda name: (len(name), name.swapcase())):
        ending = next((ending for ending in PARTS if name.lower().endswith(f".{ending}")), None)
        if ending is None or ("." in ending and os.path.splitext(name)[0] in captioned):
            continue
        stem = name[: -len(ending) - 1]
        if any(image not in taken for image in images.get(stem, ())):
            parts = found.setdefault(stem, {})
            if ending not in parts:
                parts[ending] = name
                taken.add(name)
    return found


class PartFinder:
    """Finds the parts of images that a table names; each folder is listed once, as long as its turn is not long ago.

    Args:
        folder: The folder to which the names of images are relative.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._of_folder = lru_cache(64)(self._list)

    def __call__(self, source: str) -> dict[str, str]:
        """Return the parts of an image: ending -> path, relative to the folder."""
        path, name = os.path.split(source)
        parts = self._of_folder(path).get(os.path.splitext(name)[0], {})
        return {ending: os.path.join(path, part) for ending, part in parts.items()}

    def _list(self, path: str) -> dict[str, dict[str, str]]:
        try:
            return find_parts(name for name in os.listdir(self.folder / path) if not name.startswith("."))
        except OSError:  # the image cannot be read either, and is counted
            return {}


def fit_part(ending: str, data: bytes, original: Header, stored: Header) -> bytes:
    """Return a part as it is stored: its own bytes, unless its image became smaller and it is a picture.

    Pictures then become as small as their image, by the nearest pixel, so that numbers of classes are never mixed.

    Args:
        ending: Its ending, one of PARTS.
        data: Bytes of its file.
        original: Size of the image that it belongs to.
        stored: Size of that image in the shard.

    Raises:
        Broken: Where the part cannot be read, or is a picture of another shape than the image.
    """
    if ending == "cls":
        if not decode_text(data).isdigit():
            raise Broken("unreadable .cls", "it holds no whole number")
        return data
    try:
        if ending.endswith(".npy"):
            decode_array(data)
            return data
        picture = open_image(data)
        picture.load()
        if ending in LEVELS:
            whole_numbers(picture, PARTS[ending])
    except Broken as broken:
        raise Broken(f"unreadable .{ending}", broken.detail or broken.reason) from broken
    except PILLOW_ERRORS as error:
        raise Broken(f"unreadable .{ending}", str(error)[:200]) from error
    if not in_proportion(original, *picture.size):
        raise Broken(
            f".{ending} of another shape than the image",
            f"{picture.width} x {picture.height} beside {original.width} x {original.height}",
        )
    if stored == original:
        return data
    file = io.BytesIO()
    picture.resize(stored, Image.Resampling.NEAREST).save(file, format="png")
    return file.getvalue()
