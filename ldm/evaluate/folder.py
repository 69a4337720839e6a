"""The folder of an evaluation: images, and what was measured of each part of them, so that any number of processes can go on."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from PIL import Image
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ldm.config import differences
from ldm.evaluate.own import GENERATED, IMAGES, PARTS, REQUEST, Kind, check_folder, output_folder, read_request
from ldm.evaluate.processes import Place
from ldm.files.picture import to_picture, to_tensor
from ldm.files.tensors import write_tensors
from ldm.files.whole import write_whole, written_whole

PART = 64
"""Images of a part, the unit in which work is shared among processes and measured; the last one may be smaller."""


def parts_of(count: int) -> list[range]:
    """Return the numbers of the images of each part."""
    return [range(first, min(first + PART, count)) for first in range(0, count, PART)]


class EvaluationFolder:
    """A folder that all processes of an evaluation see: of generated images, and of what was measured of each part of images.

    What is there is kept: an evaluation that was interrupted goes on, and one of more images begins with those that are there.
    Generated image i depends on what is written in the request, and on i, so a folder of images of another request is refused.
    Of images that are not generated nothing is kept but what was measured, which is measured anew of each part that has changed.

    Args:
        path: The folder; it need not exist.
        kind: The kind of the evaluation.
        request: Plain values on which images and scores depend.
    """

    def __init__(self, path: str | Path, kind: Kind, request: Mapping[str, Any]) -> None:
        self.path = Path(path)
        self.kind = kind
        self.request = json.loads(json.dumps(request))

    def check(self) -> None:
        """Write nothing, and raise ValueError where the folder holds anything else, or images of another request."""
        check_folder(self.path, self.kind)
        earlier = read_request(self.path)
        if earlier is None or self.kind is not GENERATED:
            return
        if lines := list(differences(earlier, self.request)):
            raise ValueError(
                f"out={self.path} holds images of another request:\n  "
                + "\n  ".join(lines)
                + "\nchoose another folder, or ask for the same images"
            )

    @contextmanager
    def open(self, place: Place) -> Iterator[None]:
        """Check, and keep the folder for this evaluation while the block runs; its other processes are let in."""
        with output_folder(self.path, self.kind).lock() if place.rank == 0 else nullcontext():
            self.check()
            if read_request(self.path) != self.request:
                write_whole(self.path / REQUEST, json.dumps(self.request, indent=2))
            yield

    def image(self, number: int) -> Path:
        """Return the file of an image."""
        return self.path / IMAGES / f"{number:06d}.png"

    def write_image(self, number: int, image: Tensor) -> None:
        """Write an image, `(3, H, W)` in [-1, 1]; the file appears whole or not at all."""
        with written_whole(self.image(number)) as draft:
            to_picture(image).save(draft, format="png")

    def read_image(self, number: int) -> Tensor:
        """Return an image, `(3, H, W)` in [-1, 1]."""
        with Image.open(self.image(number)) as picture:
            return to_tensor(picture)

    def has_images(self, numbers: Iterable[int]) -> bool:
        """Return whether all of some images are there."""
        return all(self.image(number).is_file() for number in numbers)

    def read_part(self, store: str, part: Sequence[int], content: str) -> dict[str, Tensor] | None:
        """Return the measurements of a part; None where they are missing, damaged, or of other images.

        Args:
            store: A name for what is measured, and how.
            part: Numbers of its images.
            content: A name for what the images are, beside the request and their numbers.
        """
        try:
            with safe_open(self._part(store, part), framework="pt") as found:
                if (found.metadata() or {}) != _metadata(part, content):
                    return None
                return {name: found.get_tensor(name) for name in found.keys()}  # noqa: SIM118
        except (OSError, SafetensorError):
            return None

    def write_part(self, store: str, part: Sequence[int], content: str, tensors: Mapping[str, Tensor]) -> None:
        """Write what was measured of a part; see `read_part`."""
        write_tensors(self._part(store, part), tensors, _metadata(part, content))

    def _part(self, store: str, part: Sequence[int]) -> Path:
        return self.path / PARTS / store / f"{part[0] // PART:06d}.safetensors"


def _metadata(part: Sequence[int], content: str) -> dict[str, str]:
    return {"images": str(len(part)), "content": content}
