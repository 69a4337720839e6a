"""Options that only other choices of a group have: what to type where one is given without the choice that it belongs to."""

from __future__ import annotations

import contextlib
import difflib
import re
import shlex
import warnings
from collections.abc import Collection, Iterable, Mapping, Sequence

from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from ldm.config import CONFIGS, choices_of, compose, options_of
from ldm.options.arguments import SEARCH_PATH, as_typed


def leaves_of(config: DictConfig) -> list[str]:
    """Return the full names of the options of a config that take a value: none is a node of others, or of a choice.

    Args:
        config: The config, Hydra's own node included.
    """
    nodes = {_node(group) for group in config.hydra.runtime.choices}
    return [one for one, value in options_of(config).items() if not (isinstance(value, dict) or one in nodes)]


def other_choice(override: Override, base: DictConfig, name: str, typed_choices: Sequence[str]) -> str | None:
    """Return what to type where an unknown option belongs to a choice of a group that is not made; None where it does not.

    Where it is a node of such a choice, an option in it is proposed. Where nothing is chosen of its group and no choice has the
    option, a name like it is proposed, or the choices are named.

    Args:
        override: The unknown option.
        base: The config without it, Hydra's own node included.
        name: The program's: its config is `configs/<name>.yaml`.
        typed_choices: The choices that were typed, and options that name further folders of configs.
    """
    option = override.key_or_group
    folders = [one for one in typed_choices if one.startswith(SEARCH_PATH)]
    chosen = {group: choice for group, choice in base.hydra.runtime.choices.items() if not group.startswith("hydra/")}
    for group in _groups(option, chosen, name, typed_choices):
        inner = option.removeprefix(f"{_node(group)}.")
        own = _own_options(group.partition("@")[0], name, folders)
        having = [choice for choice, options in own.items() if inner in options]
        around = [choice for choice, options in own.items() if any(one.startswith(f"{inner}.") for one in options)]
        if having or around:
            choice = _preferred(group, having or around)
            typed = choice if group in chosen else _beside(choice, group, own, options_of(base))
        if around and not having:
            first = next(one for one in own[choice] if one.startswith(f"{inner}."))
            return (
                f"{option} holds options of a choice of {group}, and {_instead(group, chosen, name)}; "
                f"did you mean {group}={typed} {_node(group)}.{first}=...?"
            )
        if having:
            others = [one for one in having if one != choice]
            also = f" (it is also of {', '.join(others)})" if others else ""
            return (
                f"{option} is an option of a choice of {group}, and {_instead(group, chosen, name)}; "
                f"type {group}={typed} {shlex.quote(as_typed(str(override.input_line)))}{also}"
            )
        if own and group in chosen and chosen[group] is None:
            return f"there is no option {option}; {_nearest(inner, group, own)} {_instead(group, chosen, name)}"
    return None


def _groups(option: str, chosen: Iterable[str], name: str, typed_choices: Sequence[str]) -> list[str]:
    """Return the groups of a program whose choices could have an option, that with the innermost node first."""
    first, dot, _ = option.partition(".")
    if not dot:
        return []
    found = sorted(
        (group for group in chosen if option.startswith(f"{_node(group)}.")), key=lambda group: -len(_node(group))
    )
    if not found:  # Hydra tells neither groups of which several are chosen at once nor whether a program has a group
        others = [one for one in typed_choices if one.partition("=")[0] != first]
        for group, choices in choices_of(name, [first], typed_choices).items():
            with contextlib.suppress(HydraException, OmegaConfBaseException):
                compose(name, [*others, f"{group}=[{choices[0]}]"])
                found.append(group)
    return found


def _node(group: str) -> str:
    """Return the node that the choice of a group fills: "sampler" of sampler, "a.b" of guidance@a.b."""
    return group.partition("@")[2] or group.replace("/", ".")


def _own_options(group: str, name: str, folders: Sequence[str]) -> dict[str, list[str]]:
    """Return each choice of a group -> the names that its options, nodes left out, have inside the group's node."""
    node, found = _node(group), {}
    for choice in choices_of(name, [group], folders).get(group, []):
        # Some cannot be composed by themselves, and of others Hydra says what is of no use here.
        with contextlib.suppress(HydraException, OmegaConfBaseException), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            config = compose(f"{group}/{choice}", folders, hydra_too=True)
            found[choice] = [
                one.removeprefix(f"{node}.")
                for one in leaves_of(config)
                if one.startswith(f"{node}.") and "._" not in one
            ]
    return found


def _preferred(group: str, choices: Sequence[str]) -> str:
    """Return that of some choices which training takes by default, or else the first."""
    usual = re.search(rf"^  - {group.partition('@')[0]}: (\w+)", (CONFIGS / "train.yaml").read_text(), re.MULTILINE)
    return usual[1] if usual is not None and usual[1] in choices else choices[0]


def _beside(choice: str, group: str, own: Mapping[str, Sequence[str]], known: Collection[str]) -> str:
    """Return how a choice is typed beside those of its group that are made already."""
    made = [
        one for one, options in own.items() if options and all(f"{_node(group)}.{inner}" in known for inner in options)
    ]
    return f"[{','.join([*made, choice])}]" if made else choice


def _instead(group: str, chosen: Mapping[str, str | None], name: str) -> str:
    """Return what is chosen in place of what has an option; of nothing, what the comment on the group says that it means."""
    if group not in chosen:
        return "none that has it is chosen"
    if chosen[group] is not None:
        return f"{group}={chosen[group]} does not have it"
    text = (CONFIGS / f"{name}.yaml").read_text()
    meaning = re.search(rf"^  - {group}: null .*\bnull: (.*)$", text, re.MULTILINE)
    return "none is chosen" + ("" if meaning is None else f" ({meaning[1]})")


def _nearest(inner: str, group: str, own: Mapping[str, Sequence[str]]) -> str:
    """Return the option like one that no choice of a group has, with the choice to make for it.

    Where there is none, the options beside it are returned; where there is no such node, all choices.
    """
    every = dict.fromkeys(one for options in own.values() for one in options)
    for close in difflib.get_close_matches(inner, every, n=1):
        choice = _preferred(group, [choice for choice, options in own.items() if close in options])
        return f"did you mean {group}={choice} {_node(group)}.{close}=...?"
    node = f"{inner.rpartition('.')[0]}."
    beside = {choice: [one for one in options if one.startswith(node)] for choice, options in own.items()}
    if having := [choice for choice, options in beside.items() if options]:
        choice = _preferred(group, having)
        some = ", ".join(f"{_node(group)}.{one}" for one in beside[choice][:4])
        return f"{group}={choice} has the options {some};"
    return f"no choice of {group} has it ({', '.join(own)});"
