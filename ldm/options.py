"""Which values an option can have: one rule for each, and errors that name option, value and range."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any


class Rule(ABC):
    """A set of values."""

    @abstractmethod
    def allows(self, value: Any) -> bool:
        """Return whether a value is one of the set."""

    @abstractmethod
    def __str__(self) -> str:
        """Describe the set: "a whole number, at least 1"."""


@dataclass(frozen=True)
class Whole(Rule):
    """Whole numbers between two limits, both included; `true` and `false` are none.

    Args:
        least: The smallest number.
        most: The largest number.
    """

    least: int = -(2**63)
    most: int = 2**63 - 1

    def allows(self, value: Any) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and self.least <= value <= self.most

    def __str__(self) -> str:
        if self.most < 2**63 - 1:
            return f"a whole number from {self.least} to {self.most}"
        return "a whole number" + (f", at least {self.least}" if self.least > -(2**63) else "")


@dataclass(frozen=True)
class Real(Rule):
    """Finite numbers between two limits, both included unless they are said to be left out.

    Args:
        least: The lower limit.
        most: The upper limit.
        above: Whether the lower limit itself is left out.
        below: Whether the upper limit itself is left out.
    """

    least: float = -math.inf
    most: float = math.inf
    above: bool = False
    below: bool = False

    def allows(self, value: Any) -> bool:
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not math.isfinite(value):
            return False
        low = value > self.least if self.above else value >= self.least
        return low and (value < self.most if self.below else value <= self.most)

    def __str__(self) -> str:
        low = "" if self.least == -math.inf else f"{'above' if self.above else 'at least'} {self.least:g}"
        high = "" if self.most == math.inf else f"{'below' if self.below else 'at most'} {self.most:g}"
        return ", ".join(part for part in ("a finite number", low, high) if part)


@dataclass(frozen=True)
class OneOf(Rule):
    """The values of a list.

    Args:
        values: The list.
    """

    values: tuple[Any, ...]

    def allows(self, value: Any) -> bool:
        return any(type(value) is type(one) and value == one for one in self.values)

    def __str__(self) -> str:
        return "one of " + ", ".join("null" if one is None else str(one).lower() for one in self.values)


@dataclass(frozen=True)
class Optional(Rule):
    """Those of another rule, and null.

    Args:
        rule: The other rule.
        meaning: What null means.
    """

    rule: Rule
    meaning: str = ""

    def allows(self, value: Any) -> bool:
        return value is None or self.rule.allows(value)

    def __str__(self) -> str:
        return f"{self.rule}, or null{f' ({self.meaning})' if self.meaning else ''}"


@dataclass(frozen=True)
class ImageSize(Rule):
    """Sizes of images in pixels: one number for squares, or a list of height and width."""

    def allows(self, value: Any) -> bool:
        if isinstance(value, Sequence) and not isinstance(value, str):
            return len(value) == 2 and all(map(COUNT.allows, value))
        return COUNT.allows(value)

    def __str__(self) -> str:
        return "a whole number, at least 1, or two of them, [height,width]"


COUNT = Whole(1)
SIZE = ImageSize()
FRACTION = Real(0.0, 1.0)
POSITIVE = Real(0.0, above=True)
NOT_NEGATIVE = Real(0.0)
SEED = Whole(0)
FLAG = OneOf((False, True))


def check(option: str, value: Any, rule: Rule) -> None:
    """Raise ValueError where an option has a value that its rule does not allow."""
    if not rule.allows(value):
        shown = "null" if value is None else str(value).lower() if isinstance(value, bool) else value
        raise ValueError(f"{option}={shown} cannot be; give {rule}")


def check_all(config: Mapping[str, Any], rules: Mapping[str, Rule]) -> None:
    """Raise ValueError for the first option of a plain config whose value its rule does not allow.

    Args:
        config: Nested mappings, without interpolations.
        rules: Full name of an option, or a pattern of names like `task.*.steps` -> its rule. Options without a rule may
            have any value.
    """
    for name, value in _leaves(config):
        for pattern, rule in rules.items():
            if fnmatchcase(name, pattern):
                check(name, value, rule)


def _leaves(node: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in node.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
