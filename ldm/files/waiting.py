"""Waiting for files that other processes write."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from tqdm.auto import tqdm

log = logging.getLogger(__name__)

T = TypeVar("T")

POLL = 1.0
"""Seconds between two checks."""

LONG = 60.0
"""Seconds without progress after which advice is logged, in case other processes have ended."""


def wait_for(done: Callable[[T], bool], parts: Sequence[T]) -> None:
    """Wait until parts of a work are finished by whichever process does them; for ever, since they may be slow.

    Args:
        done: Returns whether a part is finished.
        parts: The parts.
    """
    left = [part for part in parts if not done(part)]
    if not left:
        return
    with tqdm(total=len(left), desc="waiting for other processes", unit="part") as bar:
        since: float | None = time.monotonic()
        while left:
            time.sleep(POLL)
            before, left = left, [part for part in left if not done(part)]
            bar.update(len(before) - len(left))
            if len(left) < len(before):
                since = time.monotonic()
            elif since is not None and time.monotonic() - since > LONG:
                log.warning(
                    "%d of %d parts of other processes are missing; if these have ended, press Ctrl-C and type the command again "
                    "with as many processes as there are (RANK, WORLD_SIZE): what is finished is kept",
                    len(left),
                    len(parts),
                )
                since = None
