"""The names of classes, which travel in the checkpoint of a model conditioned on classes."""

from __future__ import annotations

import difflib
import json
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor, nn

from ldm.conditioner.base import tensor_to_text, text_to_tensor
from ldm.files.text import clean_text, lines

SHOWN = 12
"""The largest number of names in a message."""


class ClassNames(nn.Module):
    """The names of the classes that a conditioner reads, in the order of their numbers; there may be none.

    Names that are given as a file are read by `load`, before training. A state dict holds the names themselves.

    Args:
        names: The names, or a text file of them, one a line; None: classes have numbers alone.
        field: Name of the field that holds classes.
        count: Number of classes.
        exact: There must be a name for each class; false: for some of the first ones is enough.

    Attributes:
        names: The names; some may be empty, and some alike.

    Raises:
        ValueError: Where names are no texts, or are not as many as the classes.
    """

    def __init__(self, names: str | Sequence[str] | None, *, field: str, count: int, exact: bool) -> None:
        super().__init__()
        self.field = field
        self.count = count
        self.exact = exact
        self.file = names if isinstance(names, str) else None
        self.names: tuple[str, ...] = ()
        if names is not None and self.file is None:
            self.names = self._checked(names)

    def load(self) -> None:
        """Read the names from their file, if they are given as one and are not there yet.

        Raises:
            ValueError: Where it cannot be read, or does not fit the number of classes.
        """
        if self.file is None or self.names:
            return
        try:
            text = Path(self.file).read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(
                f"conditioner.names={self.file} cannot be read as a text file ({error}); give a file with the name of a class a "
                "line, or a list of names"
            ) from error
        self.names = self._checked(lines(text.rstrip()))

    def number(self, name: str) -> int:
        """Return the number of a class.

        Args:
            name: Its name.

        Raises:
            ValueError: Where no class or more than one is called so, or no names are known.
        """
        if not self.names:
            raise ValueError(
                f"this model knows its classes by their numbers, not by names like {name!r}; give the number"
            )
        found = [number for number, known in enumerate(self.names) if name and known == name]
        if len(found) == 1:
            return found[0]
        if found:
            raise ValueError(
                f"several classes are called {name!r}: give the number of one, {' or '.join(map(str, found))}"
            )
        near = difflib.get_close_matches(name, self.names, n=3)
        some = ", ".join(self.names[:SHOWN]) + (", ..." if len(self.names) > SHOWN else "")
        advice = f"did you mean {' or '.join(near)}?" if near else f"choose from {some}"
        raise ValueError(f"this model knows no class {name!r}; {advice}")

    def in_words(self, number: int) -> str:
        """Return a readable name: "heart", "class 3 (crane)" where several classes share the name, "class 3" without a name.

        Args:
            number: Its number.
        """
        name = " ".join(self.names[number].split()) if 0 <= number < len(self.names) else ""
        if not name:
            return f"class {number}"
        return name if self.names.count(self.names[number]) == 1 else f"class {number} ({name})"

    def agrees(self, state: Tensor) -> bool:
        """Return whether the names in a state dict are the same as these; where one of them has no names, nothing differs."""
        others = tuple(json.loads(tensor_to_text(state)))
        return not self.names or not others or self.names == others

    def get_extra_state(self) -> Tensor:
        """Return the names, for the state dict."""
        return text_to_tensor(json.dumps(self.names))

    def set_extra_state(self, state: Tensor) -> None:
        """Take the names from a state dict, which may have none."""
        self.names = tuple(json.loads(tensor_to_text(state)))

    def _checked(self, names: Sequence[str]) -> tuple[str, ...]:
        if not all(isinstance(name, str) for name in names):
            raise ValueError(f"conditioner.names are texts; got {list(names)[:SHOWN]}")
        if not names or len(names) > self.count or (self.exact and len(names) < self.count):
            raise ValueError(
                f"conditioner.names has {len(names)} names, but there are {self.count} classes; give "
                f"{'a name for each' if self.exact else 'one to as many'}, in the order of their numbers"
            )
        return tuple(map(clean_text, names))


def class_names(conditioner: nn.Module, field: str) -> ClassNames:
    """Return the names of the classes that a conditioner knows; those without names where it knows none.

    Args:
        conditioner: The conditioner, or several as one.
        field: Name of the field that holds classes.
    """
    parts = (part for part in conditioner.modules() if isinstance(part, ClassNames) and part.field == field)
    return next(parts, ClassNames(None, field=field, count=0, exact=False))
