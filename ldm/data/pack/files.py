"""Files of a user: which names are those of images, and how their bytes are read."""

from __future__ import annotations

import os
import stat
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
