"""Configs of programs, each choice composed once: Hydra takes longer for it than most tests that need one."""

import copy
import re
from functools import cache

from omegaconf import OmegaConf

from ldm.config import CONFIGS, compose
from ldm.options.arguments import parse_override, quote_texts

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
    """Return a program's config as `compose` makes it, to be changed at will.

    Options of parts, like data.size=64, are set as Hydra sets them, after the composition, which others may have needed.
    """
    values = [override for override in overrides if re.match(r"(?!hydra\.)[a-z_]+\.[a-z_.]+=", override)]
    choices = tuple(override for override in overrides if override not in values)
    config = copy.deepcopy(_composed(name, choices))
    for override in map(parse_override, quote_texts(values)):
        OmegaConf.update(config, override.key_or_group, override.value(), merge=True)
    return config


@cache
def _composed(name, choices):
    return compose(name, choices)


def one_of_each(choices):
    """Return choices of all groups at a time, until each choice of each group was among them.

    Args:
        choices: group -> its choices.
    """
    rounds = max(len(names) for names in choices.values())
    return [{group: names[number % len(names)] for group, names in choices.items()} for number in range(rounds)]
