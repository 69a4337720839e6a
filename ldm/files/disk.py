"""Messages about files that cannot be written, and about a disk that is full."""

from __future__ import annotations

import errno
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

FULL = (errno.ENOSPC, errno.EDQUOT)
"""Error numbers of a full disk, or of a user's full quota."""


def why_unwritten(path: Path, error: BaseException, *, what: str = "the file") -> str:
    """Return a message that says why a file could not be written, how much space its disk has, and what to do.

    Args:
        path: The file.
        error: The error, behind which a library may have hidden the system's reason.
        what: A description of the file.
    """
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, OSError):
        cause = cause.__context__
    reason = (cause.strerror if isinstance(cause, OSError) else None) or str(error).splitlines()[0]
    folder = _existing(path.absolute().parent)
    return (
        f"{what} {path} cannot be written: {reason} (the disk of {folder} has {_room(folder)} left); make room or free the "
        "folder for writing"
    )


def full_disk(error: BaseException, places: Mapping[str, str]) -> str | None:
    """Return a message that names the full disk, where an error reports one without naming it.

    Args:
        error: The error.
        places: Option -> a path to which a program may have written.

    Returns:
        The message, about the place with the least room; None where the error is another, or names a file.
    """
    if not isinstance(error, OSError) or error.errno not in FULL or error.filename is not None:
        return None
    folders = {f"{option}={place}": _existing(Path(place).absolute()) for option, place in places.items()}
    folders["TMPDIR"] = _existing(Path(tempfile.gettempdir()))
    which = min(folders, key=lambda one: shutil.disk_usage(folders[one]).free)
    return (
        f"{error.strerror}: the disk of {folders[which]} ({which}) has {_room(folders[which])} left; make room, or name a "
        "folder on another disk, and type the command again"
    )


def _existing(folder: Path) -> Path:
    """Return a folder, or the first above it that exists."""
    return next(place for place in (folder, *folder.parents) if place.exists())


def _room(folder: Path) -> str:
    return f"{shutil.disk_usage(folder).free / 1e6:,.1f} MB"
