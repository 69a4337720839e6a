"""The folder of an evaluation: images, and what was measured of each part of them, so that any number of processes can go on."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from PIL import Image
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ldm.config import differences
from ldm.evaluate.processes import Place
from ldm.files.output_folder import OutputFolder
from ldm.files.picture import to_picture, to_tensor
from ldm.files.tensors import write_tensors
from ldm.files.whole import write_whole

PART = 64
"""Images of a part, the unit in which work is shared among processes and measured; the last one may be smaller."""

REQUEST, RESULTS, TABLE, GRID = "evaluation.json", "results.json", "results.md", "grid.png"
"""What each image is made of; the scores; the same to read; some of the images."""

IMAGES, PARTS = "images", "parts"
"""Folders of the images, and of what was measured of them."""

OURS = frozenset({REQUEST, RESULTS, TABLE, GRID, IMAGES, PARTS})


def parts_of(count: int) -> list[range]:
    """Return the numbers of the images of each part."""
    return [range(first, min(first + PART, count)) for first in range(0, count, PART)]


class EvaluationFolder:
    """A folder of generated images that all processes of an evaluation see, and of what was measured of each part of them.

    What is there is kept: an evaluation that was interrupted goes on, and one of more images begins with those that are there.
    Image i depends on what is written in the request, and on i, so a folder of another request is refused.

    Args:
        path: The folder; it need not exist.
        request: Plain values on which images depend.
    """

    def __init__(self, path: str | Path, request: Mapping[str, Any]) -> None:
        self.path = Path(path)
        self.request = json.loads(json.dumps(request))

    def check(self) -> None:
        """Write nothing, and raise ValueError where the folder holds anything else, or images of another request."""
        self._output().check()
        earlier = self._earlier()
        lines = [] if earlier is None else list(differences(earlier, self.request))
        if lines:
            raise ValueError(
                f"out={self.path} holds images of another request:\n  "
                + "\n  ".join(lines)
                + "\nchoose another folder, or ask "
                "for the same images"
            )

    @contextmanager
    def open(self, place: Place) -> Iterator[None]:
        """Check, and keep the folder for this evaluation while the block runs; its other processes are let in."""
        with self._output().lock() if place.rank == 0 else nullcontext():
            self.check()
            if not (self.path / REQUEST).exists():
                write_whole(self.path / REQUEST, json.dumps(self.request, indent=2))
            yield

    def image(self, number: int) -> Path:
        """Return the file of an image."""
        return self.path / IMAGES / f"{number:06d}.png"

    def write_image(self, number: int, image: Tensor) -> None:
        """Write an image, `(3, H, W)` in [-1, 1]; the file appears whole or not at all."""
        file = self.image(number)
        file.parent.mkdir(parents=True, exist_ok=True)
        draft = file.with_name(f".{file.name}.{os.getpid()}")
        to_picture(image).save(draft, format="png")
        draft.replace(file)

    def read_image(self, number: int) -> Tensor:
        """Return an image, `(3, H, W)` in [-1, 1]."""
        with Image.open(self.image(number)) as picture:
            return to_tensor(picture)

    def has_images(self, numbers: Iterable[int]) -> bool:
        """Return whether all of some images are there."""
        return all(self.image(number).is_file() for number in numbers)

    def read_part(self, store: str, part: Sequence[int]) -> dict[str, Tensor] | None:
        """Return what was measured of a part; None where it is missing, damaged, or of fewer images.

        Args:
            store: A name for what is measured, and how.
            part: Numbers of its images.
        """
        file = self._part(store, part)
        try:
            with safe_open(file, framework="pt") as content:
                if (content.metadata() or {}).get("images") != str(len(part)):
                    return None
                return {name: content.get_tensor(name) for name in content.keys()}  # noqa: SIM118
        except (OSError, SafetensorError):
            return None

    def write_part(self, store: str, part: Sequence[int], tensors: Mapping[str, Tensor]) -> None:
        """Write what was measured of a part."""
        write_tensors(self._part(store, part), tensors, {"images": str(len(part))})

    def _earlier(self) -> Any:
        try:
            return json.loads((self.path / REQUEST).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise ValueError(f"{self.path / REQUEST} is damaged; choose another folder") from error

    def _part(self, store: str, part: Sequence[int]) -> Path:
        return self.path / PARTS / store / f"{part[0] // PART:06d}.safetensors"

    def _output(self) -> OutputFolder:
        known = (self.path / REQUEST).is_file()
        return OutputFolder(self.path, option="out", is_own=lambda name: known and name in OURS)
