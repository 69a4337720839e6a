"""The parts of an evaluation that a command has exchanged, beside a protocol that says values of its own parts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict

from ldm.config import takes

PARTS = ("sampler", "guidance", "metric")
"""Nodes of the config some of whose options a protocol sets."""


def fit_parts(config: DictConfig) -> list[str]:
    """Take out the values of a protocol that the chosen parts do not have, like the eta of another sampler.

    Args:
        config: The options of a command, which are changed.

    Returns:
        The names of what was taken out.
    """
    dropped = [
        name for part in PARTS if isinstance(config.get(part), DictConfig) for name in _foreign(config[part], part)
    ]
    with open_dict(config):
        for name in dropped:
            whole, _, key = name.rpartition(".")
            parent = OmegaConf.select(config, whole) if whole else config
            parent.pop(key)
    return dropped


def _foreign(node: Mapping[Any, Any], name: str) -> Iterator[str]:
    """Yield the names of the options of a part that its class does not have, and of parts that have no class."""
    target = node.get("_target_")
    if target is None and name != "metric":
        yield name
        return
    for key, value in node.items():
        if target is not None and key != "_target_" and not takes(target, str(key)):
            yield f"{name}.{key}"
        elif isinstance(value, DictConfig):
            yield from _foreign(value, f"{name}.{key}")
