"""Warnings of processes that read data, said once for all of them; and the signals that readers leave alone."""

from __future__ import annotations

import logging
import signal

from pytorch_lightning.utilities import rank_zero_only

log = logging.getLogger(__name__)


@rank_zero_only
def say(warning: str | None) -> None:
    """Log a warning, if there is one, once for all processes."""
    if warning is not None:
        log.warning("%s", warning)


def leave_signals_alone(worker: int) -> None:
    """Ignore signals to a whole group of processes, for they are for the one that trains."""
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
