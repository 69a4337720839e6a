"""The folder that `sample.py` writes into: which files in it are ours, so that nobody else's is ever replaced or removed."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ldm.files.output_folder import OutputFolder
from ldm.files.text import lines
from ldm.files.whole import write_whole

RECORD, GRID = "samples.jsonl", "grid.png"
"""Files in a folder of samples: a line for each image, and all of them in one picture."""

SWEEP = "multirun.yaml"
"""The file that a sweep writes beside the folders of its jobs."""

IMAGE = re.compile(r"\d{5,}\.png")
"""Names of our images."""


def image_name(index: int) -> str:
    """Return the name of image `index` in a folder of samples."""
    return f"{index:05d}.png"


class SampleFolder:
    """A folder of images, a picture of them all, and a record that lists them.

    The record is written before the images, so it lists them also where a command was interrupted. What it lists by one of
    our names, and the picture and the record themselves, are replaced by the next command; any other file is a stranger's, and
    a folder that holds one is refused. Folders in it, like those of a sweep, stay as they are.

    Args:
        path: The folder; it need not exist.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def listed(self) -> set[str]:
        """Return the names of the files that an earlier command wrote, as its record says; none where no record is ours."""
        record = self.path / RECORD
        if not record.is_file():
            return set()
        try:
            named = [json.loads(line)["file"] for line in lines(record.read_text(encoding="utf-8")) if line.strip()]
        except (OSError, ValueError, KeyError, TypeError):  # somebody else's file of that name
            return set()
        images = {name for name in named if isinstance(name, str) and IMAGE.fullmatch(name)}
        return {name for name in (*images, GRID, RECORD) if not (self.path / name).is_dir()} if images else set()

    def check(self, inputs: Iterable[tuple[str, str]] = ()) -> None:
        """Write nothing, and raise ValueError where something of a user's would be lost.

        Args:
            inputs: Option and path of each file that is read; none may lie where the images go.
        """
        self._output().check()
        here = self.path.resolve()
        for option, file in inputs:
            if here in (Path(file).resolve().parent, Path(file).parent.resolve()):
                raise ValueError(
                    f"{option}={file} lies in out={self.path}, whose images are replaced; choose another folder, like "
                    "out=changed"
                )

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Check, make the folder, and keep it for this process while the block runs; see `OutputFolder`."""
        with self._output().lock():
            yield

    def begin(self, record: Sequence[str]) -> None:
        """Remove what an earlier command wrote and write a new record, from which on the files that it lists are ours."""
        for name in self.listed() - {RECORD}:
            (self.path / name).unlink(missing_ok=True)
        write_whole(self.path / RECORD, "".join(f"{line}\n" for line in record))

    def _output(self) -> OutputFolder:
        listed = self.listed()
        return OutputFolder(self.path, option="out", is_own=lambda name: name in listed or self._may_stay(name))

    def _may_stay(self, name: str) -> bool:
        """Return whether it is nothing that images would be mixed with: a folder, or the settings of a sweep."""
        ours = name in (GRID, RECORD) or IMAGE.fullmatch(name)
        return name == SWEEP or (not ours and (self.path / name).is_dir())
