"""Signals to a run: save, or save and end."""

from __future__ import annotations

import signal
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

import pytorch_lightning as pl

GO_ON, SAVE, STOP, DIVERGED = range(4)
"""Requests for what happens after a batch, the strongest last."""


class Preempted(Exception):  # noqa: N818
    """A run was asked to end by SIGTERM, and all that it has done is saved."""


class Signals:
    """Remembers SIGUSR1 (save) and SIGTERM (save and end) while the `with` block runs, until somebody takes them.

    A signal is only remembered where it arrives, in the middle of anything; what it asks for is done between batches, by all
    ranks together.
    """

    def __init__(self) -> None:
        self._asked = GO_ON
        self._before: dict[int, Callable[[int, FrameType | None], Any] | int | None] = {}

    def __enter__(self) -> Signals:
        self._before = {number: signal.signal(number, self._ask) for number in (signal.SIGTERM, signal.SIGUSR1)}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def take(self) -> int:
        """Return the request, and mark it as answered."""
        asked, self._asked = self._asked, GO_ON
        return asked

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self._asked = max(self._asked, STOP if number == signal.SIGTERM else SAVE)


def leave_signals_alone(trainer: pl.Trainer) -> None:
    """Keep Lightning from setting its own handlers, and several ranks from asking each other about them before each batch.

    Its handler of SIGTERM talks to other ranks from inside the handler, and its question waits for the device. It has no public
    way to do so. `tests/callback/test_signals.py` and `test_agreement.py` fail where these private ones are gone or not enough.
    """
    trainer._signal_connector.register_signal_handlers = _nothing  # type: ignore[method-assign]
    trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = _nothing  # type: ignore[method-assign]


def _nothing() -> None:
    pass
