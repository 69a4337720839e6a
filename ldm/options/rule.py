"""Rules that say which values an option can have.

An error names the option, its value and the values that it can have.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any


class Rule(ABC):
    """A set of values that an option can have."""

    @abstractmethod
    def allows(self, value: Any) -> bool:
        """Return whether a value belongs to the set."""

    @abstractmethod
    def __str__(self) -> str:
        """Describe the set: "a whole number, at least 1"."""


@dataclass(frozen=True)
class Whole(Rule):
    """All integers between two limits, both included; `true` and `false` do not belong to them.

    Args:
        least: The lower limit.
        most: The upper limit.
    """

    least: int = -(2**63)
    most: int = 2**63 - 1

    def allows(self, value: Any) -> bool:
        """Return whether a value is an integer within the limits."""
        return isinstance(value, int) and not isinstance(value, bool) and self.least <= value <= self.most

    def __str__(self) -> str:
        if self.most < 2**63 - 1:
            return f"a whole number from {self.least} to {self.most}"
        return "a whole number" + (f", at least {self.least}" if self.least > -(2**63) else "")


@dataclass(frozen=True)
class Real(Rule):
    """All finite numbers between two limits; each limit is included unless it is excluded explicitly.

    Args:
        least: The lower limit.
        most: The upper limit.
        above: True if the lower limit is excluded.
        below: True if the upper limit is excluded.
    """

    least: float = -math.inf
    most: float = math.inf
    above: bool = False
    below: bool = False

    def allows(self, value: Any) -> bool:
        """Return whether a value is a finite number within the limits."""
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
        """Return whether a value is in the list; its type must be the same, too."""
        return any(type(value) is type(one) and value == one for one in self.values)

    def __str__(self) -> str:
        return "one of " + ", ".join("null" if one is None else str(one).lower() for one in self.values)


@dataclass(frozen=True)
class Optional(Rule):
    """The values of another rule, and null.

    Args:
        rule: The other rule.
        meaning: A few words that say what null means.
    """

    rule: Rule
    meaning: str = ""

    def allows(self, value: Any) -> bool:
        """Return whether a value is null or allowed by the other rule."""
        return value is None or self.rule.allows(value)

    def __str__(self) -> str:
        return f"{self.rule}, or null{f' ({self.meaning})' if self.meaning else ''}"


@dataclass(frozen=True)
class ImageSize(Rule):
    """All sizes of images in pixels: one number for a square, or a list of height and width."""

    def allows(self, value: Any) -> bool:
        """Return whether a value is a count, or a list of two counts."""
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
    """Check the value of an option.

    Args:
        option: The full name of the option, like `data.seed`.
        value: Its value.
        rule: The values that it can have.

    Raises:
        ValueError: If the rule does not allow the value.
    """
    if not rule.allows(value):
        shown = "null" if value is None else str(value).lower() if isinstance(value, bool) else value
        high = ", below 2^63" if isinstance(value, int) and value >= 2**63 else ""
        raise ValueError(f"{option}={shown} cannot be; give {rule}{high}")


def check_all(config: Mapping[str, Any], rules: Mapping[str, Rule]) -> None:
    """Check all options of a plain config.

    Args:
        config: Nested mappings, without interpolations.
        rules: Full name of an option, or a pattern of names like `stage.*.batch_size` -> its rule. An option without a rule
            may have any value.

    Raises:
        ValueError: If a value is not allowed; the error names the first such option.
    """
    for name, value in leaves(config):
        for pattern, rule in rules.items():
            if fnmatchcase(name, pattern):
                check(name, value, rule)


def check_range(option: str, ends: Sequence[float]) -> None:
    """Check that an option is a range: the least and the greatest of some values.

    Args:
        option: The full name of the option.
        ends: Its value.

    Raises:
        ValueError: Unless these are two numbers in ascending order.
    """
    if len(ends) != 2 or ends[0] > ends[1]:
        raise ValueError(f"{option}={list(ends)} cannot be; give the least and the greatest value")


def matches(name: str, patterns: Iterable[str]) -> bool:
    """Return whether the full name of an option matches one of some patterns, like `stage.*.batch_size`."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def leaves(node: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield full name and value of every option in nested mappings."""
    for key, value in node.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
