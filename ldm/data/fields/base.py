"""The files of a sample, and the base classes of what reads fields from them."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor

from ldm.data.fields.cut import Cut
from ldm.data.fields.placement import Placement
from ldm.data.shards.names import read_record


class Files:
    """The files of one sample beside its image; each is read when it is asked for, and once.

    Args:
        read: Gives the bytes of the file with an ending, None where the sample has no such file. It may raise Broken.
    """

    def __init__(self, read: Callable[[str], bytes | None]) -> None:
        self._read = read
        self._held: dict[str, bytes | None] = {}
        self._record: dict[str, Any] | None = None

    def get(self, ending: str) -> bytes | None:
        """Return the bytes of a file, like that with the ending "txt"; None where there is none. Raises Broken."""
        if ending not in self._held:
            self._held[ending] = self._read(ending)
        return self._held[ending]

    @property
    def record(self) -> dict[str, Any]:
        """The content of the .json; empty where there is none."""
        if self._record is None:
            data = self.get("json")
            self._record = read_record(data) if data else {}
        return self._record


class FieldReader(ABC):
    """Reads one field of a sample.

    Attributes:
        name: Name of the field.
        endings: Endings of the files that it reads.
        advice: Advice where samples lack the field, for messages.
    """

    name: str
    endings: tuple[str, ...]
    advice: str

    @abstractmethod
    def read(self, files: Files, rng: Callable[[], random.Random] | None) -> Any:
        """Return the value of one sample: a text, a whole number, or a tensor.

        Args:
            files: The files of the sample.
            rng: Makes the generator that chooses where there is a choice; None: the choice is always the same.

        Raises:
            Broken: Where the sample has no such field ("no caption"), or one that cannot be read ("unreadable label").
        """

    @abstractmethod
    def varies(self, files: Files) -> bool:
        """Return whether chance decides which value a sample has."""


class PlacedReader(FieldReader):
    """Reads a field that lies on the image: it is resized, cropped and flipped as the image is."""

    @abstractmethod
    def place(self, value: Any, placement: Placement) -> Tensor:
        """Return a value of `read`, resized, cropped and flipped as the image was.

        Raises:
            Broken: Where it does not fit the image, or turns out to be damaged.
        """


class ComputedReader(FieldReader):
    """Computes a field of the finished image, which has been resized, cropped and flipped.

    Every sample has such a field: the files that its reader knows are read where they are there, and no sample needs them.

    Attributes:
        needs_image: Whether the levels of the image are needed; else its placement is enough, which a cached latent has, too.
    """

    needs_image: bool

    @abstractmethod
    def compute(self, value: Any, cut: Cut, rng: Callable[[], random.Random]) -> Tensor:
        """Return the field of one sample.

        Args:
            value: The value, as `read` returns it.
            cut: The finished image; its levels are there if `needs_image` is true.
            rng: Makes the generator of this field of this sample: the same seed, epoch and key draw the same.

        Raises:
            Broken: Where what was read does not fit the image, or turns out to be damaged.
        """


def take_images_alone(readers: Iterable[FieldReader]) -> bool:
    """Return True if an image alone has all fields, since none of the readers needs a file beside it.

    A computed field needs none: of the files that its reader knows it reads those that are there.
    """
    return all(isinstance(reader, ComputedReader) or not reader.endings for reader in readers)
