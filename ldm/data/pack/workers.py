"""Worker processes that write shards; they stop with the process that started them, however it ends."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.sharedctypes import Synchronized
from multiprocessing.synchronize import Event
from typing import Any, NamedTuple

from ldm.data.pack.plan import Shard
from ldm.data.pack.shard import Job, write_shard


class _Shared(NamedTuple):
    """The state that all processes share: how many rows are done, and whether to stop."""

    steps: Synchronized[int]
    stop: Event

    def step(self) -> None:
        with self.steps.get_lock():
            self.steps.value += 1
        if self.stop.is_set():
            raise InterruptedError("stopped")


_shared: _Shared
"""The shared state; it is set in each worker as it starts."""


def write_all(shards: Sequence[Shard], job: Job, workers: int, step: Callable[[int], Any]) -> None:
    """Write shards in several processes, or in this one where one is enough.

    Args:
        shards: The shards that are missing.
        job: Settings that all shards share.
        workers: The greatest number of processes.
        step: Function that is called now and then with the number of rows that have been done since the last call.

    Raises:
        ChildProcessError: Where a worker was killed.
    """
    if min(workers, len(shards)) <= 1:
        for shard in shards:
            write_shard(shard, job, lambda: step(1))
        return
    context = multiprocessing.get_context("spawn")
    shared = _Shared(context.Value("q", 0), context.Event())
    with ProcessPoolExecutor(min(workers, len(shards)), context, _start, (shared,)) as pool:
        try:
            _follow({pool.submit(_write, shard, job) for shard in shards}, shared, step)
        except BrokenProcessPool as error:
            raise ChildProcessError(
                "a worker was killed, perhaps for want of memory; the same command with fewer workers goes on"
            ) from error
        finally:
            shared.stop.set()
            pool.shutdown(cancel_futures=True)


def _follow(pending: set[Future[None]], shared: _Shared, step: Callable[[int], Any]) -> None:
    """Wait until all shards are done, or one has failed; its error is raised."""
    seen = 0
    while pending:
        done, pending = wait(pending, timeout=0.5, return_when=FIRST_COMPLETED)
        steps = shared.steps.value
        step(steps - seen)
        seen = steps
        for future in done:
            future.result()


def _start(shared: _Shared) -> None:
    global _shared
    _shared = shared
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent says when to stop
    threading.Thread(target=_leave_with_parent, daemon=True).start()


def _leave_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _write(shard: Shard, job: Job) -> None:
    write_shard(shard, job, _shared.step)
