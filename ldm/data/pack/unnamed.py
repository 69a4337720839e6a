"""Images of a folder that no table names: they are counted, since they would be missed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from ldm.data.decode import Broken
from ldm.data.endings import PART_NAMES
from ldm.data.pack.files import looks_like_image, walk
from ldm.data.pack.row import OtherFile, find_inside

UNNAMED = "image that the table does not name"

MOST = 2_000_000
"""The greatest number of names that are remembered; larger tables are not checked."""


class NamedImages:
    """Remembers which images of a folder tables name, and finds those that they do not.

    Args:
        folder: The folder to which the images' paths are relative.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._named: set[int] = set()

    def add(self, name: Any) -> None:
        """Remember a name, as a table gives it; whatever is no path of an image in the folder is none."""
        if len(self._named) <= MOST:
            with suppress(Broken):
                self._named.add(hash(find_inside(name, self.folder)))

    def others(self, leave_out: Path) -> Iterator[tuple[str, OtherFile]]:
        """Yield place and kind of the folder's images that were not named; none where no image of it was.

        Label maps and other files of an image are none.

        Args:
            leave_out: A folder inside it that is not looked into.
        """
        if not 0 < len(self._named) <= MOST:
            return
        for path, names in walk(self.folder, leave_out=leave_out):
            for name in names:
                where = os.path.relpath(os.path.join(path, name), self.folder).replace(os.sep, "/")
                if looks_like_image(name) and not name.lower().endswith(PART_NAMES) and hash(where) not in self._named:
                    yield where, OtherFile(UNNAMED)
