"""Labels from the names of folders: `photos/cat/1.jpg` and `photos/dog/2.jpg` are of the classes cat and dog."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from ldm.data.decode import Broken
from ldm.data.pack.files import looks_like_image
from ldm.data.pack.row import Fields

FROM_FOLDERS = "folders"
"""The value of `labels` for classes that are the folders of the images."""

CLASSES_FILE = "classes.txt"
"""The file beside the shards with the names of the classes, one a line, in the order of their numbers."""

SPLITS = frozenset({"train", "training", "val", "valid", "validation", "dev", "test", "testing"})
"""Names of folders that are parts of a data set, and no classes."""


def find_classes(folder: Path, *, leave_out: Path) -> dict[str, int]:
    """Return name -> number of the classes in a folder of folders: those with an image at any depth, in order of their names.

    Args:
        folder: The folder of all images.
        leave_out: A folder inside it that is not looked into.

    Raises:
        ValueError: Where these folders are not one for each of several classes.
    """
    names = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith("."))
    found = [name for name in names if _has_image(folder / name, leave_out)]
    if len(found) < 2:
        there = f"has images in {'one, ' + repr(found[0]) if found else 'none'}"
        raise ValueError(
            f"labels={FROM_FOLDERS} needs a folder for each class in images={folder}, like cat/1.jpg and dog/2.jpg, and it "
            f"{there}; give the folder that holds those of the classes, or leave labels out"
        )
    if all(name.lower() in SPLITS for name in found):
        raise ValueError(
            f"the folders in images={folder} are {', '.join(found)}: parts of a data set, and no classes; pack each by itself, "
            f"like images={folder / found[0]}, into an out= of its own, with the same folders of classes in each"
        )
    for name in found:
        if not name.isprintable():
            raise ValueError(
                f"{name!a} in images={folder} can be no name of a class, since it is no text of one line; rename it"
            )
    return {name: number for number, name in enumerate(found)}


def with_label(record: Fields, where: str, parts: Mapping[str, str], classes: Mapping[str, int]) -> Fields:
    """Return what is known of an image with the number of its class, "label".

    Args:
        record: What is known of it already.
        where: Path of the image, relative to the folder of all images.
        parts: Ending -> path of its other files.
        classes: Name -> number of the classes.

    Raises:
        Broken: Where the image is in no folder of a class, or has a label of its own.
    """
    name, _, inside = where.partition(os.sep)
    if not inside:
        raise Broken("in no folder of a class")
    if "cls" in parts or record.get("label") is not None:
        raise Broken("two labels", "that of its folder, and one in a .cls or .json beside it")
    return {**record, "label": classes[name]}


def _has_image(folder: Path, leave_out: Path) -> bool:
    """Return whether there is an image in a folder, at any depth, that is not hidden; links are followed, once each."""
    seen = {os.path.realpath(leave_out)}
    for path, folders, names in os.walk(folder, followlinks=True):
        if os.path.realpath(path) in seen:
            folders.clear()
            continue
        seen.add(os.path.realpath(path))
        if any(looks_like_image(name) and not name.startswith(".") for name in names):
            return True
        folders[:] = [name for name in folders if not name.startswith(".")]
    return False
