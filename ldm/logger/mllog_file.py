"""A file of MLPerf's log lines: reading it, and adding to it."""

from __future__ import annotations

import json
import logging
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlperf_logging.mllog.mllog import MLLogger

LOG_FILE = "mllog.txt"
"""The file in a stage's folder."""

MARK = ":::MLLOG "
"""The beginning of each line of such a log."""

PACKAGE = re.escape(str(Path(__file__).resolve().parents[2]))
"""The folder of the package, which lines are not to tell."""


def place_of(step: int, batch: int) -> dict[str, int]:
    """Return a point of the training: v3.1 counts steps, later rounds images."""
    return {"samples_count": step * batch, "step_num": step}


def read_lines(log: Path, *, missing_ok: bool = True) -> list[dict[str, Any]]:
    """Return the lines of a log; a last line that a process could not finish is cut off.

    Args:
        log: The log.
        missing_ok: Whether it may be missing; it then has no lines.

    Raises:
        FileNotFoundError: If there is no log, unless `missing_ok`.
        ValueError: If a line cannot be read.
    """
    if not log.is_file():
        if missing_ok:
            return []
        raise FileNotFoundError(f"no log {log}; train with logger=mllog")
    data = log.read_bytes()
    whole = data.rfind(b"\n") + 1
    unfinished = data[whole:]
    if unfinished and (unfinished.startswith(MARK.encode()) or MARK.encode().startswith(unfinished)):
        with open(log, "r+b") as file:
            file.truncate(whole)
    lines = []
    for number, line in enumerate(data[:whole].decode(errors="replace").splitlines(), 1):
        if line.startswith(MARK):
            try:
                lines.append(json.loads(line.removeprefix(MARK)))
            except ValueError as error:
                raise ValueError(
                    f"{log}, line {number} cannot be read: {error}; mend it, or move the file away"
                ) from error
    return lines


def now() -> int:
    """Return the milliseconds since 1970."""
    return round(time.time() * 1000)


def adder(log: Path) -> MLLogger:
    """Return a logger that adds lines to a log.

    Args:
        log: The log, which is made with its first line.

    Raises:
        ImportError: If the package mlperf-logging is not installed.
    """
    try:
        from mlperf_logging.mllog.mllog import MLLogger
    except ImportError as error:
        raise ImportError('logger=mllog needs mlperf-logging; type pip install -e ".[mlperf]"') from error
    lines = logging.Logger("mllog", logging.INFO)
    lines.addHandler(_Appender(log))
    return MLLogger(lines, root_dir=PACKAGE)


class _Appender(logging.Handler):
    """Adds lines to a file that is never held open, so that several processes may add to it.

    Args:
        file: The file; it is made when the first line is added.
    """

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.file = file

    def emit(self, record: logging.LogRecord) -> None:
        """Add a line."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with open(self.file, "a", encoding="utf-8") as file:
            file.write(f"{self.format(record)}\n")
