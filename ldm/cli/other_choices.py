"""Options that only other choices of a group have: what to type where one is given without the choice that it belongs to."""

from __future__ import annotations

import contextlib
import difflib
import re
import shlex
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

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
    """Return a correction where an unknown option belongs to a choice of a group that was not made; None where it does not.

    Where it is a node of such a choice, an option in it is proposed. Where nothing is chosen of its group and no choice has the
    option, a name like it is proposed, or the choices are named.

    Args:
        override: The unknown option.
        base: The config without it, Hydra's own node included.
        name: The program's: its config is `configs/<name>.yaml`.
        typed_choices: The choices that were typed, and options that name further folders of configs.
    """
    option = override.key_or_group
    for group in _groups(option, base, name, typed_choices):
        inner = option.removeprefix(f"{group.node}.")
        having = {choice: inner for choice, options in group.own.items() if inner in options}
        if (choice := group.first(having)) is not None:
            others = [one for one in having if one != choice]
            also = f" (it is also of {', '.join(others)})" if others else ""
            return (
                f"{option} is an option of a choice of {group.name}, and {group.instead}; "
                f"type {group.typed(choice)} {shlex.quote(as_typed(str(override.input_line)))}{also}"
            )
        if having and group.name in group.chosen:
            foreign = " or ".join(f"{group.name}={one}" for one in having)
            return (
                f"{option} is an option of {foreign}, which does not go with the other choices; leave it out, or those"
            )
        inside = group.inside(inner)
        if (choice := group.first({one: options[0] for one, options in inside.items()})) is not None:
            return (
                f"{option} holds options of a choice of {group.name}, and {group.instead}; "
                f"did you mean {group.typed(choice)} {group.node}.{inside[choice][0]}=...?"
            )
        if group.own and group.chosen.get(group.name, "") is None:
            return f"there is no option {option}; {_nearest(inner, group)} {group.instead}"
    return None


@dataclass(frozen=True)
class _Group:
    """A group of a program from which another choice could be made.

    Args:
        name: Its name, with the node that it fills where that is another one: "sampler", "guidance@a.b".
        program: The name of the program.
        typed_choices: The choices that were typed, and options that name further folders of configs.
        base: The config that these make, Hydra's own node included.
    """

    name: str
    program: str
    typed_choices: Sequence[str]
    base: DictConfig

    @property
    def node(self) -> str:
        """Return the node that its choice fills."""
        return _node(self.name)

    @property
    def chosen(self) -> Mapping[str, str | None]:
        """Return the groups -> what is chosen of them; Hydra leaves out those of which several are chosen at once."""
        found: Mapping[str, str | None] = self.base.hydra.runtime.choices
        return found

    @cached_property
    def own(self) -> dict[str, list[str]]:
        """Return each choice -> the names that its options, nodes left out, have inside the node; the usual choice first."""
        folders = [one for one in self.typed_choices if one.startswith(SEARCH_PATH)]
        plain = self.name.partition("@")[0]
        found = _own_options(plain, self.program, folders)
        usual = re.search(rf"^  - {plain}: (\w+)", (CONFIGS / "train.yaml").read_text(), re.MULTILINE)
        return dict(sorted(found.items(), key=lambda one: usual is None or one[0] != usual[1]))

    @property
    def instead(self) -> str:
        """Return the choice that was made in place of one that has an option; or what having no choice means."""
        if self.name not in self.chosen:
            return "none that has it is chosen"
        if self.chosen[self.name] is not None:
            return f"{self.name}={self.chosen[self.name]} does not have it"
        text = (CONFIGS / f"{self.program}.yaml").read_text()
        meaning = re.search(rf"^  - {self.name}: null .*\bnull: (.*)$", text, re.MULTILINE)
        return "none is chosen" + ("" if meaning is None else f" ({meaning[1]})")

    def typed(self, choice: str) -> str:
        """Return how to type a choice; where a group takes several, together with those that were made already."""
        if self.name in self.chosen:
            return f"{self.name}={choice}"
        known = options_of(self.base)
        made = [
            one
            for one, options in self.own.items()
            if options and all(f"{self.node}.{inner}" in known for inner in options)
        ]
        return f"{self.name}=[{','.join([*made, choice])}]" if made else f"{self.name}={choice}"

    def inside(self, inner: str) -> dict[str, list[str]]:
        """Return those choices that have a node of a name -> the options in it."""
        found = {
            choice: [one for one in options if one.startswith(f"{inner}.")] for choice, options in self.own.items()
        }
        return {choice: options for choice, options in found.items() if options}

    def first(self, options: Mapping[str, str]) -> str | None:
        """Return the first choice with which its option can be typed, beside the choices of other groups; None: there is none.

        Args:
            options: Choice -> the name of an option of it inside the node.
        """
        others = [one for one in self.typed_choices if one.partition("=")[0] != self.name]
        for choice, inner in options.items():
            with contextlib.suppress(HydraException, OmegaConfBaseException):
                config = compose(self.program, [*others, self.typed(choice)], hydra_too=True)
                if f"{self.node}.{inner}" in leaves_of(config):
                    return choice
        return None


def _groups(option: str, base: DictConfig, program: str, typed_choices: Sequence[str]) -> Iterator[_Group]:
    """Yield the groups whose choices could have an option, that with the innermost node first."""
    first, dot, _ = option.partition(".")
    names = [one for one in base.hydra.runtime.choices if option.startswith(f"{_node(one)}.")]
    if dot and not names:  # Hydra does not tell groups of which several are chosen at once
        names = list(choices_of(program, [first], typed_choices))
    for name in sorted(names, key=lambda one: -len(_node(one))):
        yield _Group(name, program, typed_choices, base)


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
            leaves = [one for one in leaves_of(config) if one.startswith(f"{node}.") and "._" not in one]
            found[choice] = [one.removeprefix(f"{node}.") for one in leaves]
    return found


def _nearest(inner: str, group: _Group) -> str:
    """Return the option like one that no choice of a group has, with the choice to make for it.

    Where there is none, the options beside it are returned; where there is no such node, all choices.
    """
    every = dict.fromkeys(one for options in group.own.values() for one in options)
    for close in difflib.get_close_matches(inner, every, n=1):
        having = {choice: close for choice, options in group.own.items() if close in options}
        if (choice := group.first(having)) is not None:
            return f"did you mean {group.typed(choice)} {group.node}.{close}=...?"
    beside = group.inside(inner.rpartition(".")[0])
    if (choice := group.first({one: options[0] for one, options in beside.items()})) is not None:
        some = ", ".join(f"{group.node}.{one}" for one in beside[choice][:4])
        return f"{group.typed(choice)} has the options {some};"
    return f"no choice of {group.name} has it ({', '.join(sorted(group.own))});"
