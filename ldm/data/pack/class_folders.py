"""Labels from the names of folders: `photos/cat/1.jpg` and `photos/dog/2.jpg` are of the classes cat and dog."""

from __future__ import annotations

import difflib
import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from ldm.data.decode import Broken
from ldm.data.pack.files import looks_like_image, walk
from ldm.data.pack.row import Fields
from ldm.files.text import lines

FROM_FOLDERS = "folders"
"""The value of `labels` for classes that are the folders of the images."""

CLASSES_FILE = "classes.txt"
"""The file beside the shards with the names of the classes, one a line, in the order of their numbers."""

SPLITS = frozenset({"train", "training", "val", "valid", "validation", "dev", "test", "testing"})
"""Names of folders that are parts of a data set, and no classes."""


SHOWN = 5
"""The largest number of folders that an error names."""


def find_classes(folder: Path, *, leave_out: Path, file: Path | None = None) -> dict[str, int]:
    """Return name -> number of the classes in a folder of folders.

    Folders with an image at any depth are classes. They are numbered in the order of their names, or as a file says, which
    may name further classes.

    Args:
        folder: The folder of all images.
        leave_out: A folder inside it that is not looked into.
        file: A text file with the names of the classes, one a line, in the order of their numbers; None: those of the folders.

    Raises:
        ValueError: Where these folders are not one for each of several classes, or the file cannot be used or lacks one of them.
    """
    known = None if file is None else read_classes(file)
    names = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith("."))
    found = [name for name in names if _has_image(folder / name, leave_out)]
    if len(found) < (2 if known is None else 1):
        there = f"has images in {'one, ' + repr(found[0]) if found else 'none'}"
        raise ValueError(
            f"labels={FROM_FOLDERS} needs a folder for each class in images={folder}, like cat/1.jpg and dog/2.jpg, and it "
            f"{there}; give the folder that holds those of the classes, or leave labels out"
        )
    if all(name.lower() in SPLITS and name not in (known or ()) for name in found):
        raise ValueError(
            f"the folders in images={folder} are {', '.join(found)}: parts of a data set, and no classes; pack each by itself, "
            f"like images={folder / found[0]}, into an out= of its own, the second with classes=FILE, the {CLASSES_FILE} that "
            "the first wrote"
        )
    for name in found:
        if not name.isprintable():
            raise ValueError(
                f"{name!a} in images={folder} can be no name of a class, since it is no text of one line; rename it"
            )
    if known is None:
        return {name: number for number, name in enumerate(found)}
    _check_known(found, known, f"classes={file}", folder)
    return known


def read_classes(file: Path) -> dict[str, int]:
    """Return name -> number of the classes that a text file names, one a line.

    Args:
        file: The file, in UTF-8; empty lines at its end mean nothing.

    Raises:
        ValueError: Where it cannot be read, names no class, or has a line that is empty or stands there twice.
    """
    try:
        names = lines(file.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(
            f"classes={file} cannot be read as a text file ({error}); give a file with the name of a folder a line, in the order "
            f"of their numbers, like the {CLASSES_FILE} of another packing"
        ) from error
    while names and not names[-1].strip():
        names.pop()
    if not names:
        raise ValueError(f"classes={file} names no class; write the name of a folder into each line")
    found: dict[str, int] = {}
    for number, name in enumerate(names):
        if not name.strip():
            raise ValueError(
                f"line {number + 1} of classes={file} is empty, and the lines after it are numbered by their places; write "
                "the name of a folder there, or delete the line"
            )
        if name in found:
            raise ValueError(
                f"lines {found[name] + 1} and {number + 1} of classes={file} are both {name!r}; a folder has one number"
            )
        found[name] = number
    return found


def digest(classes: Sequence[str]) -> str:
    """Return the number of some classes and a digest of their names and order, to compare them with others."""
    return f"{len(classes)} names, {hashlib.sha256(repr(list(classes)).encode()).hexdigest()[:16]}"


def with_label(record: Fields, where: str, parts: Mapping[str, str], classes: Mapping[str, int]) -> Fields:
    """Return the data of an image, with the number of its class under "label".

    Args:
        record: The data that are known of it already.
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


def _check_known(found: Sequence[str], known: Mapping[str, int], source: str, folder: Path) -> None:
    """Raise ValueError where the names that were given lack a folder."""
    if not (missing := [name for name in found if name not in known]):
        return
    some = ", ".join(map(repr, missing[:SHOWN])) + (", ..." if len(missing) > SHOWN else "")
    near = difflib.get_close_matches(missing[0], known, n=1)
    raise ValueError(
        f"{source} does not name {some}, in images={folder}, which {'has' if len(missing) == 1 else 'have'} images"
        + (f" ({near[0]!r} is like {missing[0]!r})" if near else "")
        + "; add a line for each at its end (a model then has so many more classes), or take the folder away"
    )


def _has_image(folder: Path, leave_out: Path) -> bool:
    """Return whether there is an image in a folder, at any depth, that is not hidden; links are followed, once each."""
    return any(looks_like_image(name) for _, names in walk(folder, leave_out=leave_out) for name in names)
