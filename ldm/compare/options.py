"""The options in which runs differ, each told once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from ldm.report.secrets import without_secrets
from ldm.training.claim import FREE, NOT_FREE

UNTOLD = ("name", "paths.*", "search*", "logger*", "tags*", "optimized_metric", "validate_only", "*.folder", "*.cache")
"""Options, as patterns, that say nothing about what was trained or on what."""

MISSING = "(none)"
"""The text for an option that a run does not have."""


def different_options(configs: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Return full name -> value in each config, of all options in which configs differ.

    A value is in a config several times, since parts repeat the options of others: of names that end alike and differ in the same
    way, the shortest is kept.

    Args:
        configs: Plain configs, at least one.
    """
    flat = [dict(leaves(without_secrets(dict(config)))) for config in configs]
    names = dict.fromkeys(name for one in flat for name in one)
    found = {name: [str(one.get(name, MISSING)) for one in flat] for name in names if not _matches(name, UNTOLD)}
    differ = {name: values for name, values in found.items() if len(set(values)) > 1}
    kept: dict[tuple[str, ...], str] = {}
    for name, values in differ.items():
        key = (name.rpartition(".")[2], *values)
        if key not in kept or name.count(".") < kept[key].count("."):
            kept[key] = name
    return {name: differ[name] for name in sorted(kept.values(), key=lambda name: (name.count("."), name))}


def trained_alike(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Return the options by which two runs are trained differently; the seed is none of them.

    Args:
        one: A plain config.
        other: A plain config.
    """
    return [name for name in different_options([one, other]) if name != "seed" and not _is_free(name)]


def leaves(node: Any, name: str = "") -> list[tuple[str, Any]]:
    """Return full name and value of all options of a plain config; lists are values."""
    if not isinstance(node, Mapping) or not node:
        return [(name, node)]
    return [leaf for key, value in node.items() for leaf in leaves(value, f"{name}.{key}" if name else str(key))]


def _is_free(name: str) -> bool:
    return _matches(name, FREE) and not _matches(name, NOT_FREE)


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)
