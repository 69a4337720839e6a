"""Folders that programs write into: no file of another program is overwritten, and only one program writes at a time."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

log = logging.getLogger(__name__)

LOCK_FILE = ".lock"
"""A file in each folder that a program writes into; it is locked while the program is at work, and stays there."""

NAMED = 3
"""The number of files that an error names."""


class OutputFolder:
    """A folder for the files that one program writes.

    Args:
        path: The folder; it need not exist.
        option: Name of the option by which a user chooses it, for errors.
        is_own: Called with the name of each file or folder in it, but for hidden ones; returns True where this program wrote
            it or may replace it. None: the folder must be new or empty.
    """

    def __init__(self, path: str | Path, *, option: str, is_own: Callable[[str], bool] | None) -> None:
        self.path = Path(path)
        self.option = option
        self.is_own = is_own

    def check(self) -> None:
        """Check that the folder can be used; nothing is written.

        Raises:
            ValueError: Where the path is no folder, may not be written, or holds files that this program did not write.
        """
        for place in (self.path, *self.path.parents):
            if place.exists() or place.is_symlink():
                if not place.is_dir():
                    found = "a file" if place.exists() else "a link to what is not there"
                    raise ValueError(
                        f"{self.option}={self.path} cannot be a folder, since {place} is {found}; choose another"
                    )
                if not os.access(place, os.W_OK):
                    raise ValueError(
                        f"{self.option}={self.path} cannot be written, since {place.absolute()} is read-only for this user; "
                        "choose another"
                    )
                break
        if not self.path.is_dir():
            return
        is_own = self.is_own or (lambda _: False)
        foreign = sorted(name for name in os.listdir(self.path) if not name.startswith(".") and not is_own(name))
        if foreign:
            named = ", ".join(foreign[:NAMED]) + (f" and {len(foreign) - NAMED} more" if len(foreign) > NAMED else "")
            holds = "is not empty" if self.is_own is None else "holds what was not written by this program"
            raise ValueError(
                f"{self.option}={self.path} {holds} ({named}); nothing was changed: "
                f"choose another folder, like {self.option}={self._free()}"
            )

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Check the folder, make it, and reserve it for this process while the block runs.

        Raises:
            ValueError: Where `check` raises it, and where another process is at work in the folder.
        """
        self.check()
        self.path.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.path / LOCK_FILE)
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            raise ValueError(
                f"another process is writing into {self.path}; wait until it has ended, or choose another folder, like "
                f"{self.option}={self._free()}"
            ) from error
        except NotImplementedError:
            log.warning("%s lies on a file system without locks; see to it that nothing else writes there", self.path)
        try:
            yield
        finally:
            lock.release()

    def _free(self) -> Path:
        """Return the path of a folder that is not there: beside this one, or in it where it has no name of its own."""
        named = self.path if self.path.name not in ("", "..") else self.path / "new"
        found, number = named, 2
        while found.exists():
            found = named.with_name(f"{named.name}-{number}")
            number += 1
        return found
