"""The record of a run: what was typed, when, on which machine, with which versions, and what was warned of."""

from __future__ import annotations

import json
import logging
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ldm.files.whole import write_whole
from ldm.report.secrets import word_without_secrets

log = logging.getLogger(__name__)

RECORD_FILE = "record.json"
"""The file in a run folder with its record."""

MOST_COMMANDS = 50
"""Commands that a record keeps: the first, and the last of those that went on with the run."""

MOST_WARNINGS = 50
"""The largest number of different warnings that are kept of a command."""


@dataclass(frozen=True, kw_only=True)
class Invocation:
    """One start of a training program in a run folder.

    Attributes:
        command: The command as it was typed, without secrets.
        started: Date and time, in ISO 8601, with its zone.
        hardware: Name -> text; see `ldm.report.machine`.
        versions: Name -> version.
        warnings: The warnings, each text once.
    """

    command: str
    started: str
    hardware: Mapping[str, str]
    versions: Mapping[str, str]
    warnings: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class Record:
    """Facts on a run beside its config.

    Attributes:
        experiment: Name of the experiment that was chosen; "" for none.
        panels: Name of a stage -> title of a panel of curves -> how the names of its curves end.
        next_command: The command that may follow the run; "" until it has ended.
        invocations: The commands that have begun and continued the run, in their order.
    """

    experiment: str = ""
    panels: Mapping[str, Mapping[str, Sequence[str]]]
    next_command: str = ""
    invocations: Sequence[Invocation] = ()

    def begun(self, invocation: Invocation) -> Record:
        """Return the record with one more command."""
        kept = [*self.invocations, invocation]
        return replace(self, invocations=kept if len(kept) <= MOST_COMMANDS else [kept[0], *kept[1 - MOST_COMMANDS :]])

    def warned(self, warnings: Sequence[str]) -> Record:
        """Return the record with what the last command has warned of."""
        if not self.invocations:
            return self
        last = replace(self.invocations[-1], warnings=list(dict.fromkeys(warnings))[:MOST_WARNINGS])
        return replace(self, invocations=[*self.invocations[:-1], last])

    def write(self, folder: Path) -> None:
        """Write the record into a run folder; where that is impossible, only warn, since a run does not need it."""
        try:
            write_whole(folder / RECORD_FILE, json.dumps(asdict(self), indent=2))
        except OSError as error:
            log.warning("the record of the run could not be written: %s", error)


def read_record(folder: Path) -> Record | None:
    """Return the record of a run folder; None where it has none that can be read."""
    try:
        found: dict[str, Any] = json.loads((folder / RECORD_FILE).read_text(encoding="utf-8"))
        invocations = [Invocation(**one) for one in found.pop("invocations")]
        return Record(**found, invocations=invocations)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def typed(program: str, words: Sequence[str]) -> str:
    """Return a command as it can be typed into a shell, without secrets.

    Args:
        program: The command of the program, like "python train.py".
        words: Its options.
    """
    return " ".join([program, *(shlex.quote(word_without_secrets(word)) for word in words)])


def now() -> str:
    """Return date and time in ISO 8601, to the second."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


class _Listener(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())


@contextmanager
def heard_warnings() -> Iterator[list[str]]:
    """Yield a list to which all warnings of this program are appended while the block runs."""
    listener = _Listener()
    logger = logging.getLogger("ldm")
    logger.addHandler(listener)
    try:
        yield listener.texts
    finally:
        logger.removeHandler(listener)
