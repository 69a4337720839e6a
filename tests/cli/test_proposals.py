"""Whatever a message about a mistyped option proposes can be typed as it is."""

import functools
import random
import re

import pytest

from ldm.cli import mistakes, other_choices
from ldm.cli.entry import read_command_line
from ldm.cli.mistakes import UsageError, check_options
from ldm.cli.short_names import NODES
from ldm.config import CONFIGS, choices_of, compose, options_of

BASES = [
    ("train", "experiment=txt2img"),
    ("train", "experiment=autoencoder logger=[wandb]"),
    ("train", "experiment=class_icons debug=tiny"),
    ("plan", "experiment=stable_diffusion_1"),
    ("sample", "mode=inpaint"),
    ("evaluate", ""),
    ("evaluate", "protocol=reconstruction metric=[fid]"),
    ("encode", ""),
    ("icons", ""),
]

FEW = 6
MANY = 150
"""So many wrong options of each are looked at."""


@pytest.fixture(autouse=True)
def composed_once(monkeypatch):
    """The same config is not composed twice; nobody changes one."""
    once = functools.cache(lambda name, given, hydra_too: compose(name, given, hydra_too=hydra_too))
    groups = functools.cache(lambda name, given, folders: choices_of(name, given, folders))
    for module in (mistakes, other_choices):
        monkeypatch.setattr(
            module, "compose", lambda name, given=(), *, hydra_too=False: once(name, tuple(given), hydra_too)
        )
        monkeypatch.setattr(
            module, "choices_of", lambda name, given, folders=(): groups(name, tuple(given), tuple(folders))
        )


def read(name, words):
    return read_command_line(name, words, "data.source" if name == "icons" else "")


def complaint(name, words):
    """Return the message about a command line; None where there is nothing to say."""
    try:
        check_options(name, read(name, words))
    except UsageError as error:
        return str(error)
    return None


def proposals(message):
    """Return what a message proposes: for each, the choices to type first and, at the end, the name of an option or a group."""
    found = []
    if (asked := re.search(r"did you mean (.*?)\?", message)) is not None:
        found += [one.removesuffix("=...") for one in asked[1].split(" or ")]
    if (listed := re.search(r"would replace the options (.*); give one of those", message)) is not None:
        found += listed[1].split(", ")
    if (beside := re.search(r"; (\S+=\S+) has the options (.*?);", message)) is not None:
        found += [f"{beside[1]} {one}" for one in beside[2].split(", ")]
    if (typed := re.search(r"; type (\S+=\S+) (\S+?)=", message)) is not None:
        found.append(f"{typed[1]} {typed[2]}")
    return [one.split(" ") for one in found]


def can_be_typed(name, words, option):
    """Return whether an option takes a value beside some words, or a group one of its choices."""
    config = mistakes.compose(name, read(name, words).options, hydra_too=True)
    groups = [*config.hydra.runtime.choices, *(NODES if "stage" in config else ())]
    plain = option.partition("@")[0].rpartition(".")[2]
    if option in groups:
        choices = mistakes.choices_of(name, (plain,)).get(plain, [])
        return any(complaint(name, [*words, f"{option}={choice}"]) is None for choice in choices)
    if complaint(name, [*words, f"{option}=7"]) is not None:
        return False
    full = read(name, [*words, f"{option}=7"]).options[-1].partition("=")[0]
    nodes = {one.partition("@")[2] for one in groups}
    return full not in nodes and not isinstance(options_of(config)[full], dict)


def parts(option):
    """Return an option and the nodes that it is in."""
    names = option.split(".")
    return {".".join(names[: count + 1]) for count in range(len(names))}


def wrong_options(name, words):
    """Return options that are like those of a config, or of the choices that could be made instead; some are right."""
    config = mistakes.compose(name, read(name, words).options, hydra_too=True)
    near = {option for option in options_of(config) if not option.startswith("hydra")}
    groups = [group for group in config.hydra.runtime.choices if not group.startswith("hydra/")]
    for group in {*groups, "metric", "logger"}:
        plain, _, node = group.partition("@")
        for file in (CONFIGS / plain).glob("*.yaml"):
            text = re.findall(r"^( *)([a-z_]\w*):", file.read_text(), re.MULTILINE)
            inside = []
            for indent, key in text:
                inside = [*inside[: len(indent) // 2], key]
                near |= parts(".".join([node or plain, *inside]))
    near = sorted(one for one in near if re.fullmatch(r"[a-z]\w{3,}(\.\w{3,})*", one))
    return [wrong for one in near for wrong in (one, f"{one}.foo", f"{one}s", one[:-1], one.rpartition(".")[2][1:])]


def unusable_proposals(name, words, count):
    """Return the messages about some wrong options that propose what cannot be typed, and how many proposals there were."""
    chance = random.Random(0)
    usable = {}
    for option in chance.sample(wrong_options(name, words), count):
        message = complaint(name, [*words, f"{option}={chance.choice(('1', 'abc'))}"])
        for *choices, proposed in proposals(message or ""):
            groups = {choice.partition("=")[0] for choice in choices}
            others = [word for word in words if word.partition("=")[0] not in groups]
            usable[(*choices, proposed)] = can_be_typed(name, [*others, *choices], proposed) or message
    return [message for message in usable.values() if message is not True], len(usable)


@pytest.mark.parametrize(("name", "words"), BASES, ids=[f"{name} {words}" for name, words in BASES])
@pytest.mark.parametrize("count", [FEW, pytest.param(MANY, marks=pytest.mark.long)])
@pytest.mark.slow
def test_what_is_proposed_can_be_typed(name, words, count):
    unusable, seen = unusable_proposals(name, words.split(), count)
    assert unusable == []
    assert seen > 0
