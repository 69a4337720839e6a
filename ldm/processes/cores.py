"""The cores of this machine: how many of them other programs use, and how many threads there is room for."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping
from contextlib import suppress

import psutil
import torch

log = logging.getLogger(__name__)

IDLE = ("idle", "iowait", "steal", "guest", "guest_nice")
"""Times of a core in which no program of this machine computes, and those that others of its times hold already."""

LOOK = 0.3
"""Seconds for which a program watches the machine before it begins long work."""


class OtherPrograms:
    """Counts the cores that other programs use. What this program has started is its own."""

    def __init__(self) -> None:
        self._seen = _used()

    def cores(self) -> float:
        """Look: return the number of cores, on average since the last look, or since this was made."""
        now = _used()
        (time_before, all_before, own_before), (time_now, all_now, own_now) = self._seen, now
        self._seen = now
        passed = max(time_now - time_before, 1e-3)
        return max(0.0, (all_now - all_before) - (own_now - own_before)) / passed


def room(threads: int, others: float) -> int:
    """Return the number of threads, at least one, that have a core to themselves while other programs use some cores."""
    return max(1, min(threads, round(len(own_cores()) - others)))


def own_cores() -> list[int]:
    """Return the numbers of the cores that this program may use: all of the machine, unless it was given some of them."""
    given = getattr(os, "sched_getaffinity", None)  # not on macOS
    return sorted(given(0)) if given is not None else list(range(os.cpu_count() or 1))


def threads_are_chosen() -> bool:
    """Return whether the user has said how many threads compute: that number stays."""
    return "OMP_NUM_THREADS" in os.environ


def warn_of_busy_cores(device: torch.device) -> None:
    """Warn where long work on a CPU is about to begin with more threads than there is room for.

    Threads wait for one another many times in each step of a network. One that has to share its core with another program
    comes last each time, and the others wait for it.

    Args:
        device: Where the work will be done.
    """
    threads = torch.get_num_threads()
    if device.type != "cpu" or threads < 2 or threads_are_chosen():
        return
    others = OtherPrograms()
    time.sleep(LOOK)
    used = others.cores()
    if (fit := room(threads, used)) < threads:
        log.warning(
            f"other programs use {used:.1f} of the {len(own_cores())} cores, and {threads} threads, which wait for one another, "
            f"may need several times as long as {fit}; OMP_NUM_THREADS={fit} before the command takes as many"
        )


def _used() -> tuple[float, float, float]:
    """Return the time, and the seconds for which the cores have computed: for all programs, and for this one and its children."""
    times, cores = psutil.cpu_times(percpu=True), own_cores()
    busy = sum(_busy(times[core]._asdict()) for core in cores if core < len(times))
    own = psutil.Process()
    mine = sum(own.cpu_times()[:4])  # with those of children that have ended
    for child in own.children(recursive=True):
        with suppress(psutil.Error):
            mine += sum(child.cpu_times()[:4])
    return time.monotonic(), busy, mine


def _busy(times: Mapping[str, float]) -> float:
    return sum(times.values()) - sum(times.get(name, 0.0) for name in IDLE)
