"""Folders that programs write into: nothing of anybody else's is overwritten, and only one program writes at a time."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

log = logging.getLogger(__name__)

LOCK_FILE = ".lock"
"""Lies in each folder that a program writes into; it is locked while the program is at work, and stays there."""

NAMED = 3
"""An error names so many files."""


class OutputFolder:
    """A folder for what one program writes.

    Args:
        path: The folder; it need not exist.
        option: The option by which a user chooses it, for errors.
        is_own: Called with the name of each file or folder in it; returns whether this program wrote that, or may replace it.
            Hidden files are not asked about.
    """

    def __init__(self, path: str | Path, *, option: str, is_own: Callable[[str], bool]) -> None:
        self.path = Path(path)
        self.option = option
        self.is_own = is_own

    def check(self) -> None:
        """Write nothing, and raise ValueError where the path is no folder or holds files of somebody else."""
        for place in (self.path, *self.path.parents):
            if place.exists():
                if not place.is_dir():
                    raise ValueError(
                        f"{self.option}={self.path} cannot be a folder, since {place} is a file; choose another"
                    )
                break
        if not self.path.is_dir():
            return
        foreign = sorted(name for name in os.listdir(self.path) if not name.startswith(".") and not self.is_own(name))
        if foreign:
            named = ", ".join(foreign[:NAMED]) + (f" and {len(foreign) - NAMED} more" if len(foreign) > NAMED else "")
            raise ValueError(
                f"{self.option}={self.path} holds what was not written by this program ({named}); nothing was changed: "
                f"choose another folder, like {self.option}={self._free()}"
            )

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Check, make the folder, and keep it for this process while the block runs.

        Raises:
            ValueError: As `check` does, and where another process is at work in the folder.
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
        number = 2
        while (found := self.path.with_name(f"{self.path.name}-{number}")).exists():
            number += 1
        return found
