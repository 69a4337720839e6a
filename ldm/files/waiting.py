"""Waiting for files that other processes write."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from tqdm.auto import tqdm

T = TypeVar("T")

POLL = 1.0
"""Seconds between two looks."""


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
        while left:
            time.sleep(POLL)
            before, left = left, [part for part in left if not done(part)]
            bar.update(len(before) - len(left))
