"""Differences between an evaluation and the protocol whose published scores stand beside its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ldm.config import choices_of, compose, differences, resolved, value_of

MEASURED = ("num_images", "data.val_images", "metric", "reference")
"""Options of a protocol that determine what is measured, and what it is compared with."""

MADE = ("conditions", "degradation", "sampler", "guidance", "timestep_spacing", "unrounded")
"""Options of a protocol that determine how images are made."""

FREE = ("decoder", "lora", "lora_scale", "size")
"""Options that a protocol leaves to the model."""


def departures(protocol: str, options: Mapping[str, Any], *, count: int, sampled: bool) -> list[str]:
    """Return lines "option: the protocol's value -> the value here" for what differs from a protocol.

    What the protocol leaves open, like files, is no difference, and neither are metrics that are left out or come to its own.

    Args:
        protocol: Name of the protocol; of one that is not in our configs nothing is known.
        options: Plain options of the command.
        count: Number of images that were measured.
        sampled: Whether a model made them by these options; False: nothing is known of how they were made.
    """
    if protocol not in choices_of("evaluate", ["protocol"]).get("protocol", ()):
        return []
    own = resolved(compose("evaluate", [f"protocol={protocol}"]))
    given = {**options, "num_images": count}
    lines = [] if sampled else ["how these images were made is not known here"]
    for part in (*MEASURED, *MADE) if sampled else MEASURED:
        before, after = value_of(own, part), value_of(given, part)
        if part == "metric":
            after = {**before, **{name: after[name] for name in before if name in after}} if after else before
        lines += differences(*_comparable(before, after), f"{part}.")
    return lines + [f"{part}: {given[part]}" for part in FREE if sampled and given[part] != own[part]]


def _comparable(before: Any, after: Any) -> tuple[Any, Any]:
    """Return two options without what the first one leaves open."""
    if before in (None, "???"):
        return None, None
    if not isinstance(before, dict) or not isinstance(after, dict) or before.get("_target_") != after.get("_target_"):
        return _short(before), _short(after)
    pairs = {key: _comparable(value, after.get(key)) for key, value in before.items()}
    return {key: pair[0] for key, pair in pairs.items()}, {key: pair[1] for key, pair in pairs.items()}


def _short(value: Any) -> Any:
    """Return a value; of an object its class and its options as a text."""
    if not isinstance(value, dict) or "_target_" not in value:
        return value
    options = ", ".join(f"{key}={_short(one)}" for key, one in value.items() if key != "_target_" and one is not None)
    return f"{value['_target_'].rpartition('.')[2]}({options})"
