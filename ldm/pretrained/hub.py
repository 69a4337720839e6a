"""The Hugging Face hub: whether it can be asked at all."""

from __future__ import annotations

import ssl
import time
from pathlib import Path

from huggingface_hub import constants, get_session, is_offline_mode
from huggingface_hub.utils import httpx  # type: ignore[attr-defined]  # exported for whoever catches its errors

ATTEMPTS = 2
"""Attempts to connect, a second apart, before the hub counts as out of reach."""


def local_files_only(name: str) -> bool:
    """Return whether a model is to be looked for on this machine alone, since no connection to the hub can be made.

    The hub's library, asked for a model that is not in its cache, tries to connect again and again for half a minute and more,
    before it says the same. A hub that is slow to answer is asked; so is one whose certificate is not trusted, since the library
    says so itself. `HF_HUB_ETAG_TIMEOUT` is how long a connection may take, in seconds.

    Args:
        name: Name of the model on the hub, or a local folder, for which nothing is asked.
    """
    return not Path(name).is_dir() and not is_offline_mode() and not _is_reachable()


def _is_reachable() -> bool:
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(1)
        try:
            get_session().head(constants.ENDPOINT, timeout=constants.HF_HUB_ETAG_TIMEOUT)
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            if _is_of_certificate(error):
                return True
        except httpx.TransportError:
            return True
        else:
            return True
    return False


def _is_of_certificate(error: BaseException | None) -> bool:
    """Return whether a connection was made and not trusted, as behind some proxies."""
    while error is not None and not isinstance(error, ssl.SSLError):
        error = error.__cause__ or error.__context__
    return error is not None
