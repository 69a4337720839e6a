"""The options in which runs differ, each listed once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ldm.options.rule import leaves, matches
from ldm.report.secrets import without_secrets
from ldm.training.claim import FREE, NOT_FREE

IGNORED = ("name", "paths.*", "search*", "logger*", "tags*", "optimized_metric", "validate_only", "*.folder", "*.cache")
"""Options, as patterns, that say nothing about what was trained or on what."""

MISSING = "absent"
"""The text for an option that a run does not have."""

DATA = ("data._target_", "data.source*", "data.size")
"""Options that determine the data."""

SEED = "seed"
"""The option in which the runs of an expected curve differ."""


def different_options(configs: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Return full name -> value in each config, of all options in which configs differ.

    A value is in a config several times, since parts repeat the options of others: of names that end alike and differ in the same
    way, the shortest is kept.

    Args:
        configs: Plain configs, at least one.
    """
    return _without_repeats(_differing(configs))


def trained_alike(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Return the options by which two runs are trained differently; the seed is none of them.

    Args:
        one: A plain config, or what `training_options` has made of one.
        other: Another.
    """
    differ = _differing([one, other])
    seeds = differ.get(SEED)  # parts repeat it, like data.seed
    decide = {
        name: texts
        for name, texts in differ.items()
        if _decides_training(name)
        and not (name.endswith(f".{SEED}") and texts == seeds)
        and set(texts) != {MISSING, "null"}  # as of runs before the option was there
    }
    return list(_without_repeats(decide))


def of_same_data(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Return whether two runs, each a plain config or its `training_options`, are trained on data of the same source and size."""
    return not any(matches(name, DATA) for name in _differing([one, other]))


def training_options(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return full name -> value of the options of a plain config that decide how it is trained, and its seed."""
    found = leaves(without_secrets(dict(config)))
    kept = {name: value for name, value in found if _decides_training(name) and not matches(name, IGNORED)}
    return {SEED: config.get(SEED), **kept}


def _differing(configs: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    flat = [{name: _text(value) for name, value in leaves(without_secrets(dict(config)))} for config in configs]
    names = dict.fromkeys(name for one in flat for name in one)
    found = {name: [one.get(name, MISSING) for one in flat] for name in names if not matches(name, IGNORED)}
    return {name: texts for name, texts in found.items() if len(set(texts)) > 1}


def _without_repeats(differ: Mapping[str, list[str]]) -> dict[str, list[str]]:
    kept: dict[tuple[str, ...], str] = {}
    for name, texts in differ.items():
        key = (name.rpartition(".")[2], *texts)
        if key not in kept or name.count(".") < kept[key].count("."):
            kept[key] = name
    return {name: differ[name] for name in sorted(kept.values(), key=lambda name: (name.count("."), name))}


def _text(value: Any) -> str:
    """Return a value as a config says it."""
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _decides_training(name: str) -> bool:
    return name != SEED and (not matches(name, FREE) or matches(name, NOT_FREE))
