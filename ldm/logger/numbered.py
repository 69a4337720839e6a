"""Numbering what is logged by optimiser steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from pytorch_lightning.loggers import Logger


def number_by(logger: Logger, steps: Callable[[], int]) -> None:
    """Let a logger number all its entries by the optimiser steps made.

    Lightning numbers by the batches that it takes for steps, which are more where a task accumulates gradients by itself, counts
    them from 0, and begins anew when a finished model is measured.

    Args:
        logger: The logger, one of Lightning or of its kind.
        steps: Returns the number of optimiser steps made.
    """

    def log_metrics(metrics: Mapping[str, float], step: int | None = None) -> None:
        type(logger).log_metrics(logger, dict(metrics), step=steps())

    logger.log_metrics = log_metrics  # type: ignore[method-assign]
