"""Scores in JSON, which has no number for what is not finite."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping


def to_json_numbers(scores: Mapping[str, float | None]) -> dict[str, float | None]:
    """Return scores as JSON can hold them: those that are not finite become None."""
    return {name: value if value is not None and math.isfinite(value) else None for name, value in scores.items()}


def read_scores(text: str) -> dict[str, float]:
    """Return the scores of a JSON object; null becomes nan.

    Raises:
        ValueError: If the text is no JSON.
    """
    return {name: math.nan if value is None else value for name, value in json.loads(text).items()}
