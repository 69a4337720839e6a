"""Warnings about data, logged once for all processes."""

from __future__ import annotations

import logging

from pytorch_lightning.utilities import rank_zero_only

log = logging.getLogger(__name__)


@rank_zero_only
def warn_once(warning: str | None) -> None:
    """Log a warning, if there is one, once for all processes."""
    if warning is not None:
        log.warning("%s", warning)
