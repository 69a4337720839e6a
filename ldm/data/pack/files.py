"""Files of a user: how they are found below a folder, which names are those of images, and how their bytes are read."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from ldm.data.decode import Broken

PICTURE_ENDINGS = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".png", ".apng", ".webp", ".gif", ".bmp", ".dib", ".avif"),
    *(".tif", ".tiff"),
)
"""Endings, in small letters, of files that are taken for images where no table names them."""

UNREAD_ENDINGS = (
    *(
        ".heic",
        ".heif",
        ".hif",
        ".jxl",
        ".jp2",
        ".j2k",
        ".jpx",
        ".svg",
        ".ico",
        ".icns",
        ".tga",
        ".psd",
        ".xcf",
        ".exr",
    ),
    *(".hdr", ".ppm", ".pgm", ".pbm", ".pnm", ".pcx", ".dds", ".qoi", ".eps", ".dng", ".nef", ".cr2", ".cr3", ".arw"),
    *(".orf", ".rw2", ".raf", ".raw", ".pef", ".srw"),
)
"""Endings of images that are never read. (Pillow would take the small preview in a camera's raw file for the image.)"""

MAX_FILE_BYTES = 2**28
"""Size of the largest file that is read: 268 MB."""


def looks_like_image(name: str) -> bool:
    """Return True where a file's name has the ending of an image, of a format that is read or not."""
    return ending_of(name) in (*PICTURE_ENDINGS, *UNREAD_ENDINGS)


def ending_of(name: str) -> str:
    """Return the ending of a file's name, with its dot, in small letters."""
    return os.path.splitext(name)[1].lower()


def walk(
    folder: Path, *, leave_out: Path, note: Callable[[OSError], None] | None = None
) -> Iterator[tuple[str, list[str]]]:
    """Yield a folder and all below it, each with the sorted names of its files; what is hidden is left out.

    Links are followed, and each folder is seen once.

    Args:
        folder: The folder.
        leave_out: A folder inside it that is not looked into.
        note: Called with the error of a folder that cannot be read; None: such folders are passed over.
    """
    seen = {os.path.realpath(leave_out)}
    for path, folders, names in os.walk(folder, followlinks=True, onerror=note):
        if os.path.realpath(path) in seen:
            folders.clear()
            continue
        seen.add(os.path.realpath(path))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield path, sorted(name for name in names if not name.startswith("."))


def check_format(name: str) -> None:
    """Check by the name of an image that its format is read.

    Raises:
        Broken: Where it is not.
    """
    if ending_of(name) in UNREAD_ENDINGS:
        raise Broken("image format that is not read", "convert it to jpg or png")


def read_file(path: str | Path) -> bytes:
    """Return the bytes of a regular file.

    Raises:
        Broken: Where it is missing, too large, no regular file, or cannot be read.
    """
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            raise Broken("not a file")
        if status.st_size > MAX_FILE_BYTES:
            raise Broken("file too large", f"{status.st_size} bytes; at most {MAX_FILE_BYTES} are read")
        return Path(path).read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise Broken("missing file") from error
    except OSError as error:
        raise Broken("unreadable file", error.strerror or "") from error
