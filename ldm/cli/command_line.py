"""The words of a command line, sorted: flags of Hydra, like `-m`, and options, like `seed=1`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ldm.options.arguments import MULTIRUN, SEARCH_PATH, parse_override, quoted

HELP = ("-h", "--help")
CONFIG_DIR = ("-cd", "--config-dir")
VALUED = (
    *CONFIG_DIR,
    *("-c", "--cfg", "-p", "--package", "-cp", "--config-path", "-cn", "--config-name", "--experimental-rerun"),
)
"""Flags that are followed by a value."""

INFO = ("-i", "--info")
INFORMATION = ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")
"""Values that may follow `--info`."""

PLAIN = ("--resolve", "--run", "-r")
"""Flags that change nothing here."""

ELSEWHERE = ("--hydra-help", "--version", "-sc", "--shell-completion", "-cp", "--config-path", "-cn", "--config-name")
"""Flags with which Hydra does not run this program with this program's config."""


class UsageError(ValueError):
    """A command line that cannot be run; its message says what to type instead."""


@dataclass(frozen=True)
class CommandLine:
    """A command line.

    Args:
        flags: Flags and their values.
        options: All other words, as they were typed or as they were rewritten since.
        under: The node that all options belong to; "" for the whole config.
    """

    flags: tuple[str, ...]
    options: tuple[str, ...]
    under: str = ""

    @property
    def words(self) -> list[str]:
        """The words in the order in which Hydra takes them: no flag between options, and none after them."""
        return [*self.flags, *self.options]

    @property
    def is_sweep(self) -> bool:
        """True if an option may have several values, each for a job of its own."""
        return self._has(MULTIRUN)

    @property
    def asks_help(self) -> bool:
        """True if the user wants to read what there is."""
        return self._has(HELP)

    @property
    def is_ours(self) -> bool:
        """True if the options are options of this program's config."""
        return not self._has((*ELSEWHERE, "--experimental-rerun"))

    @property
    def folders(self) -> list[str]:
        """The places of further configs, like "file:///home/me/configs", in the order in which Hydra looks into them."""
        typed = [override for option in self.options if (override := _search_path(option)) is not None]
        return [str(place) for override in typed for place in override]

    @property
    def unknown_flag(self) -> str | None:
        """The first flag that Hydra does not know, or None."""
        values = {place + 1 for place, flag in enumerate(self.flags) if flag in VALUED}
        known = (*HELP, *MULTIRUN, *VALUED, *INFO, *PLAIN, *ELSEWHERE)
        names = (flag.partition("=")[0] for place, flag in enumerate(self.flags) if place not in values)
        return next((name for name in names if name not in known), None)

    def _has(self, names: Sequence[str]) -> bool:
        return any(flag.partition("=")[0] in names for flag in self.flags)


def read_words(words: Sequence[str]) -> CommandLine:
    """Sort the words of a command line, which may stand in any order.

    `--config-dir=FOLDER` becomes Hydra's option for the same, which composing without a command line knows, too.

    Raises:
        UsageError: There is no such folder.
    """
    flags: list[str] = []
    options: list[str] = []
    folders: list[str] = []
    left = list(words)
    while left:
        word = left.pop(0)
        name, equals, value = word.partition("=")
        if not word.startswith("-"):
            options.append(word)
        elif name in CONFIG_DIR and (equals or left):
            folders.append(value if equals else left.pop(0))
        elif word in INFO:
            flags.append(f"--info={left.pop(0) if left and left[0] in INFORMATION else 'all'}")
        else:
            flags.append(word)
            if word in VALUED and left:
                flags.append(left.pop(0))
    for folder in folders:
        if not Path(folder).is_dir():
            raise UsageError(f"there is no folder {folder}, in which --config-dir would look for configs")
    if folders:
        places = [f"file://{Path(folder).resolve()}" for folder in folders] + CommandLine((), tuple(options)).folders
        options = [option for option in options if not option.startswith(SEARCH_PATH)]
        options.append(f"{SEARCH_PATH}[{','.join(map(quoted, places))}]")
    return CommandLine(tuple(flags), tuple(options))


def _search_path(option: str) -> list[Any] | None:
    override = parse_override(option) if option.startswith(SEARCH_PATH) else None
    places: Any = None if override is None else override.value()
    return places if isinstance(places, list) else None
