"""The base classes of inputs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

from ldm.batch import Size


class Input(ABC):
    """An option by which a command gives one field of the images.

    Attributes:
        field: Name of the field.
        reads_files: Whether its sources are files.
    """

    field: str
    reads_files: bool

    @abstractmethod
    def sources(self, value: Any) -> list[Any]:
        """Return the sources that the option names, one for each image; a source can be written as JSON.

        Raises:
            ValueError: Where the value cannot be, or a file cannot be read.
        """

    @abstractmethod
    def with_numbers(self, source: Any, number: Callable[[str], int]) -> Any:
        """Return a source with numbers of classes in place of their names.

        Args:
            source: A source, as `sources` returns it.
            number: Gives the number of the class of a name; raises ValueError where there is none.
        """

    @abstractmethod
    def place(self, source: Any) -> str | None:
        """Return the file that a source is, or the place in a file that it is from; None where it was given outright."""

    @abstractmethod
    def in_words(self, source: Any, class_name: Callable[[int], str]) -> str:
        """Describe a source in words.

        Args:
            source: A source, as `sources` returns it.
            class_name: Gives what the class of a number is called.
        """

    @abstractmethod
    def size(self, source: Any) -> Size | None:
        """Return the size of the images that a source asks for, in pixels; None where it goes with every size."""

    @abstractmethod
    def read(self, source: Any, size: Size, *, resized: bool) -> Any:
        """Return the field of one image.

        Args:
            source: A source, as `sources` returns it.
            size: Size of the image.
            resized: Resize what lies on the image until it just covers that size; false: cut away what is too much.

        Raises:
            ValueError: Where it cannot be read.
        """


class FileInput(Input):
    """The base class of inputs whose sources are files, which name no classes."""

    reads_files = True

    def with_numbers(self, source: str, number: Callable[[str], int]) -> str:
        """Return the file; see `Input.with_numbers`."""
        return source

    def place(self, source: str) -> str:
        """Return the file; see `Input.place`."""
        return source

    def in_words(self, source: str, class_name: Callable[[int], str]) -> str:
        """Return the field and the file; see `Input.in_words`."""
        return f"{self.field} {source}"
