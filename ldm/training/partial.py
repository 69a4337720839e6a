"""Parts of a run that a config describes with `_partial_: true`, because they need what only the run knows."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from functools import partial
from typing import Any


def completed(part: Any, given: Mapping[str, Any]) -> Any:
    """Complete a part.

    Args:
        part: An object, or a `functools.partial` that makes one.
        given: Values that the run knows, by the names of the constructors' arguments.

    Returns:
        The object itself, or that which the partial makes when it is called with those of `given` that it takes and does not
        hold already.
    """
    if not isinstance(part, partial):
        return part
    takes = inspect.signature(part).parameters
    return part(**{name: value for name, value in given.items() if name in takes and name not in part.keywords})
