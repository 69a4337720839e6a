"""The words of a command line, sorted: flags of Hydra, like `-m`, and options, like `seed=1`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ldm.arguments import MULTIRUN

HELP = ("-h", "--help")
CONFIG_DIR = ("-cd", "--config-dir")
VALUED = (
    *CONFIG_DIR,
    *("-c", "--cfg", "-p", "--package", "-cp", "--config-path", "-cn", "--config-name", "--experimental-rerun"),
)
"""Flags that a value follows."""

INFO = ("-i", "--info")
INFORMATION = ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")
"""What may follow `--info`, which may also stand alone."""

PLAIN = ("--resolve", "--run", "-r")
"""Flags that change nothing here."""

ELSEWHERE = ("--hydra-help", "--version", "-sc", "--shell-completion", "-cp", "--config-path", "-cn", "--config-name")
"""Flags with which Hydra does something else than to run this program with this program's config."""


@dataclass(frozen=True)
class CommandLine:
    """A command line.

    Args:
        flags: Flags and their values.
        options: All other words, as they were typed or as they were rewritten since.
    """

    flags: tuple[str, ...]
    options: tuple[str, ...]

    @property
    def words(self) -> list[str]:
        """The words in the order in which Hydra takes them: no flag between options, and none after them."""
        return [*self.flags, *self.options]

    @property
    def is_sweep(self) -> bool:
        """Whether an option may have several values, each for a job of its own."""
        return self._has(MULTIRUN)

    @property
    def asks_help(self) -> bool:
        """Whether the user wants to read what there is."""
        return self._has(HELP)

    @property
    def is_ours(self) -> bool:
        """Whether the options are options of this program's config."""
        return not self._has((*ELSEWHERE, "--experimental-rerun"))

    @property
    def config_dir(self) -> str | None:
        """The folder in which Hydra looks for further configs, if one is given."""
        found = None
        for flag, value in zip(self.flags, (*self.flags[1:], "")):
            name, equals, joined = flag.partition("=")
            if name in CONFIG_DIR:
                found = joined if equals else value
        return found

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
    """Sort the words of a command line, which may stand in any order."""
    flags: list[str] = []
    options: list[str] = []
    left = list(words)
    while left:
        word = left.pop(0)
        if not word.startswith("-"):
            options.append(word)
        elif word in INFO:
            flags.append(f"--info={left.pop(0) if left and left[0] in INFORMATION else 'all'}")
        else:
            flags.append(word)
            if word in VALUED and left:
                flags.append(left.pop(0))
    return CommandLine(tuple(flags), tuple(options))
