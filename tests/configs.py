"""Configs of programs, each choice composed once: Hydra takes longer for it than most tests that need one."""

import copy
import os
import re
from collections.abc import Sequence

from hydra import compose as hydra_compose
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ldm import config as own
from ldm.config import CONFIGS, compose
from ldm.options.arguments import parse_override

SHARDS = ["data.train=/data/{000..099}.tar", "data.val=/data/100.tar"]


def given_to(experiment):
    """Return options without which an experiment does not compose: shards, and a checkpoint to begin with."""
    text = _text_of(experiment)
    shards = SHARDS if re.search("override /data: (shards|moments)", text) else []
    return [*shards, *(["ckpt=none"] if "\nckpt: ???" in text else [])]


def _text_of(experiment):
    """Return the config of an experiment, behind those that it goes on from."""
    text = (CONFIGS / "experiment" / f"{experiment}.yaml").read_text()
    return "".join(map(_text_of, re.findall(r"^  - ([a-z]\w*)$", text, re.MULTILINE))) + text


def composed(name, *overrides):
    """Return a program's config as `compose` makes it, to be changed at will."""
    return compose(name, overrides)


def compose_once(name: str, overrides: Sequence[str], *, return_hydra_config: bool) -> DictConfig:
    """Return what Hydra's `compose` does, each choice of groups composed once in this process.

    Options, like data.size=64, are set as Hydra sets them: after the composition, which others may have needed. With
    Hydra's own node, which lists them, or configs of further folders, whose files a test may change, all is composed.
    """
    if any("hydra.searchpath" in override for override in overrides):
        return hydra_compose(name, [*overrides], return_hydra_config)
    values = [] if return_hydra_config else [override for override in overrides if _is_value(override)]
    choices = [override for override in overrides if override not in values]
    if not values:
        return _copied(name, choices, return_hydra_config)
    try:
        config = _copied(name, choices, return_hydra_config)
        for override in map(parse_override, values):
            OmegaConf.update(config, override.key_or_group, override.value(), merge=True)
    except (HydraException, OmegaConfBaseException):  # of which Hydra has its own words
        return _copied(name, [*overrides], return_hydra_config)
    return config


def _is_value(override: str) -> bool:
    """Return whether an override gives one value to an option, rather than choosing from a group."""
    option = re.match(r"(?!hydra\b)[a-z_]\w*(\.\w+)*(?==)", override)
    if option is None or (own.CONFIGS / option[0]).is_dir():
        return False
    read = parse_override(override)
    return read is not None and not read.is_sweep_override()


def _copied(name: str, overrides: list[str], hydra_too: bool) -> DictConfig:
    """Return a copy of a config that was composed before, or compose it."""
    key = (str(own.CONFIGS), os.getcwd(), name, hydra_too, *overrides)
    if key not in _COMPOSED:
        _COMPOSED[key] = hydra_compose(name, overrides, hydra_too)
    return copy.deepcopy(_COMPOSED[key])


_COMPOSED: dict[tuple[str | bool, ...], DictConfig] = {}


def one_of_each(choices):
    """Return choices of all groups at a time, until each choice of each group was among them.

    Args:
        choices: group -> its choices.
    """
    rounds = max(len(names) for names in choices.values())
    return [{group: names[number % len(names)] for group, names in choices.items()} for number in range(rounds)]
