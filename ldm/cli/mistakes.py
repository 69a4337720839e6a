"""Mistakes on a command line, reported before anything is done: what was typed, and what to type instead."""

from __future__ import annotations

import contextlib
import difflib
import shlex
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from hydra.core.override_parser.types import ChoiceSweep, Glob, IntervalSweep, Override, QuotedString
from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from ldm.cli.command_line import CommandLine, UsageError
from ldm.cli.other_choices import leaves_of, other_choice
from ldm.cli.short_names import INSTEAD, short_names
from ldm.config import CONFIGS, choices_of, compose, options_of
from ldm.options.arguments import (
    FILE_OPTIONS,
    PATTERN_OPTIONS,
    SEARCH_PATH,
    is_name,
    is_prose,
    parse_override,
    quoted,
    why_no_option,
)

GUIDANCE = "guidance"
"""The group that other programs give the number of its scale."""

BRACED_OPTIONS = ("data.caption.fields", "data.buckets")
"""Options whose values are mappings."""


def check_options(name: str, line: CommandLine) -> DictConfig:
    """Check a command line.

    Args:
        name: The program's: its config is `configs/<name>.yaml`.
        line: The command line as it was typed, texts in quotes.

    Returns:
        The config that the options make, in a sweep that of the first job, Hydra's own node included.

    Raises:
        UsageError: An option is unreadable, unknown, given twice, of several values without a sweep, a word where a node
            belongs, or no choice of its group.
    """
    if (flag := line.unknown_flag) is not None:
        raise UsageError(f"{flag!r} is not of the form option=value; --help shows all options")
    _check_words(line.options)
    overrides = [override for override in map(parse_override, line.options) if override is not None]
    if not line.is_sweep:
        _check_single(overrides)
    chosen, values = _sort(name, overrides)
    failure = None
    try:
        config = compose(name, [*chosen, *map(_first, values)], hydra_too=True)
    except (HydraException, OmegaConfBaseException, ValueError) as error:  # ValueError: a name where a list has numbers
        failure = error
    if failure is not None or any(_needs_look(override) for override in values):
        base = _compose_chosen(name, chosen)
        for override in values:
            _check_value(override, base, name, chosen, line.under)
    if failure is not None:
        raise UsageError(f"{message_of(failure)}; --help shows all options") from failure
    return config


def compose_choices(name: str, line: CommandLine) -> DictConfig:
    """Return the config that the choices of groups on a command line make, in a sweep those of its first job.

    Raises:
        UsageError: A group is none that this config chooses from.
    """
    overrides = [override for override in map(parse_override, line.options) if override is not None]
    return _compose_chosen(name, _sort(name, overrides)[0])


def first_missing(config: DictConfig, unneeded: Collection[str] = ()) -> str | None:
    """Return the full name of the first option of a config that has no value but needs one, or None where all have one."""
    missing = (option for option, value in options_of(config).items() if value == "???" and option not in unneeded)
    return next((option for option in missing if not option.startswith("hydra.")), None)


def message_of(error: BaseException) -> str:
    """Return the message of a Hydra error and of what caused it, in one line."""
    texts = [str(error)] + ([str(error.__cause__)] if isinstance(error.__cause__, OmegaConfBaseException) else [])
    return " ".join(" ".join(texts).split())


def unreadable(options: Sequence[str]) -> str | None:
    """Return advice on the first option that Hydra's grammar does not accept; None where it accepts all."""
    for place, option in enumerate(options):
        name, equals, value = option.partition("=")
        if name and parse_override(option) is not None:
            continue
        if not equals:
            return why_no_option(options, place)
        if name and parse_override(f"{name}={quoted(value)}") is not None:
            shown = _shown(name, quoted(value))
            return f"{option} cannot be read; if its value is a text, put that in quotes of both kinds: {shown}"
        return f"{option} cannot be read: {name!r} is no name of an option; --help shows all options"
    return None


def _check_words(options: Sequence[str]) -> None:
    """Raise UsageError where words are no options, or where a shell has made several of one with braces."""
    given = [option.partition("=")[0] for option in options]
    for option in given:
        is_file = option in (*PATTERN_OPTIONS, *BRACED_OPTIONS) or option.rpartition(".")[2] in FILE_OPTIONS
        if (is_file or is_prose(option)) and given.count(option) > 1:
            braces = (
                f"; braces that a shell has taken for several words go in quotes: {option}='...'" if is_file else ""
            )
            raise UsageError(f"{option} is given {given.count(option)} times; give it once{braces}")
    if (wrong := unreadable(options)) is not None:
        raise UsageError(wrong)


def _check_single(overrides: Iterable[Override]) -> None:
    """Raise UsageError where an option has several values outside of a sweep."""
    for override in overrides:
        if override.is_sweep_override():
            option, value = override.get_key_element(), override.get_value_string()
            raise UsageError(
                f"{override.input_line} has several values: for a run with each of them add -m; "
                f"for a list type {_shown(option, f'[{value}]')}; for one text type {_shown(option, quoted(value))}"
            )


def _sort(name: str, overrides: Sequence[Override]) -> tuple[list[str], list[Override]]:
    """Return the choices of groups, in a sweep those of its first job, and apart from them all other overrides.

    Where Hydra looks for configs is among the choices.
    """
    typed = [str(override.input_line) for override in overrides]
    choices = choices_of(name, {override.key_or_group for override in overrides}, typed)
    groups = [override for override in overrides if override.key_or_group in choices]
    folders = [option for option in typed if option.startswith(SEARCH_PATH)]
    for override in groups:
        if (wrong := _wrong_choice(override, choices[override.key_or_group])) is not None:
            others = [_first(other, choices[other.key_or_group]) for other in groups if other is not override]
            _check_group(override, name, [*others, *folders])
            raise UsageError(wrong)
    chosen = [_first(override, choices[override.key_or_group]) for override in groups]
    values = [override for override in overrides if override not in groups and override.input_line not in folders]
    return [*chosen, *folders], values


def _check_group(override: Override, name: str, others: Sequence[str]) -> None:
    """Raise UsageError where a program, with some other choices, has neither an option nor a group of an override's name."""
    with contextlib.suppress(HydraException, OmegaConfBaseException):
        base = compose(name, others, hydra_too=True)
        groups = {chosen.partition("@")[0] for chosen in base.hydra.runtime.choices}
        if override.key_or_group not in (*groups, *options_of(base)):
            _check_value(override, base, name, others)


def _wrong_choice(override: Override, choices: Sequence[str]) -> str | None:
    """Return a correction where the value of a group is none of its choices; None where it is one of them."""
    group = override.get_key_element().lstrip("+~")
    for choice in _values(override):
        if choice is not None and not isinstance(choice, str | Glob):
            value = override.get_value_string()
            scale = (
                f"did you mean {group}.scale={value}? " if group == GUIDANCE and isinstance(choice, int | float) else ""
            )
            return f"there is no {group}={value}; {scale}choose from {', '.join(choices)}"
        if isinstance(choice, str) and choice not in choices and not set(choice) & set("$/."):
            hint = _suggestion(choice, choices, "{}? ")
            return f"there is no {group}={choice}; {hint}choose from {', '.join(choices)}"
        if choice is None and not override.is_delete():
            return f"there is no {group}=null; leave it out to keep the default, or choose from {', '.join(choices)}"
    return None


def _check_value(override: Override, base: DictConfig, name: str, chosen: Sequence[str], under: str = "") -> None:
    """Raise UsageError where an option does not exist, or where a word is given for a node of options.

    Args:
        override: An option that is no choice of a group.
        base: The config with all choices made, Hydra's own node included.
        name: The program's: its config is `configs/<name>.yaml`.
        chosen: The choices that were typed, and options that name further folders of configs.
        under: The node that all options that can be typed belong to; "" for the whole config.
    """
    option, known = override.key_or_group, options_of(base)
    groups = {one.partition("@")[2] or one: one for one in base.hydra.runtime.choices}
    if override.package is not None:
        same = [one for one in base.hydra.runtime.choices if one.partition("@")[0] == option]
        raise UsageError(f"there is no group {override.get_key_element()}; {_either(same) or 'see them with --help'}")
    if not _changes(override) or override.is_hydra_override():
        return
    if option not in known:
        if option in ("data.train", "data.val") and "data" in groups:
            data = base.hydra.runtime.choices["data"]
            raise UsageError(f"data={data} has no option {option}; for your own data add data=shards")
        if not under and (wrong := other_choice(override, base, name, chosen)) is not None:
            raise UsageError(wrong)
        typeable = [one for one in _typeable(base, name, chosen) if not under or one.startswith(f"{under}.")]
        hint = _suggestion(option, typeable, "{}?") or "see all options with --help"
        raise UsageError(f"there is no option {option}; {hint}")
    words = [one for one in _values(override) if _is_word(one)]
    if words and option in groups:
        value = override.get_value_string()
        raise UsageError(f"{option} is a group, whose choice is typed {groups[option]}={value}")
    if words and isinstance(known[option], dict):
        inner = [one for one in _typeable(base, name, chosen) if one.startswith(f"{option}.")]
        inner.sort(key=lambda one: one.count("."))
        if not inner:
            raise UsageError(f"{option}={words[0]} would replace a mapping; give one in braces, {option}={{...}}")
        raise UsageError(f"{option}={words[0]} would replace the options {', '.join(inner[:4])}; give one of those")


def _typeable(base: DictConfig, name: str, chosen: Sequence[str]) -> list[str]:
    """Return the names of options, and of groups that have choices, which a user can type with some choices, short ones first.

    Args:
        base: The config with all choices made, Hydra's own node included.
        name: The program's: its config is `configs/<name>.yaml`.
        chosen: The choices that were typed, and options that name further folders of configs.
    """
    groups = [one for one in base.hydra.runtime.choices if not one.startswith("hydra/")]
    plain = {one: one.partition("@")[0] for one in groups}
    elsewhere = choices_of(name, {one for one in plain.values() if not (CONFIGS / one).is_dir()}, chosen)
    having = [one for one in groups if (CONFIGS / plain[one]).is_dir() or plain[one] in elsewhere]
    names = [*short_names(base), *leaves_of(base), *having]
    return [one for one in names if "._" not in one and not one.startswith(("hydra.", "_")) and one not in INSTEAD]


def _compose_chosen(name: str, chosen: Sequence[str]) -> DictConfig:
    """Return the config that choices of groups make, Hydra's own node included.

    Raises:
        UsageError: One of the groups is none that the config chooses from; it says which are.
    """
    try:
        return compose(name, chosen, hydra_too=True)
    except (HydraException, OmegaConfBaseException) as error:
        without = {} if isinstance(error, MissingConfigException) else _composed_without_one(name, chosen)
        if str(error).startswith("In 'experiment/"):
            raise UsageError(_clash(error, without)) from error
        for choice, config in without.items():
            group = choice.partition("=")[0]
            same = [one for one in config.hydra.runtime.choices if one.partition("@")[0] == group.partition("@")[0]]
            other = _suggestion(group, _typeable(config, name, chosen), "{}?")
            hint = _either(same) or other or f"to choose from it in addition type +{choice}"
            raise UsageError(f"{choice} chooses nothing here; {hint}") from error
        raise UsageError(f"{message_of(error)}; --help shows all options") from error


def _composed_without_one(name: str, chosen: Sequence[str]) -> dict[str, DictConfig]:
    """Return those of some choices that alone are in the way -> the config that the others make, Hydra's own node included."""
    found = {}
    for choice in chosen:
        with contextlib.suppress(HydraException, OmegaConfBaseException):
            found[choice] = compose(name, [one for one in chosen if one != choice], hydra_too=True)
    return found


def _clash(error: BaseException, without: Mapping[str, DictConfig]) -> str:
    """Return a correction where an experiment changes a part that another choice has removed.

    Args:
        error: The error of the experiment's file.
        without: Each choice without which the others go together -> the config that they make.
    """
    experiment = next((choice for choice in without if choice.startswith("experiment=")), "the experiment")
    others = [choice for choice in without if choice != experiment]
    advice = "leave one of them out"
    if len(others) == 1 and others[0].startswith("data="):
        conditioner = without[others[0]].hydra.runtime.choices["conditioner"]
        advice += (
            f"; for a model with the same conditioner type experiment=txt2img {others[0]} conditioner={conditioner}"
        )
    return (
        f"{experiment} does not go with {' and '.join(others) or 'the other choices'} ({message_of(error)}); {advice}"
    )


def _needs_look(override: Override) -> bool:
    """Return whether an option that could be composed can be a mistake all the same: a word for a node."""
    option = override.key_or_group
    if not _changes(override) or override.is_hydra_override():
        return False
    return any(map(_is_word, _values(override))) and not is_name(option) and not is_prose(option)


def _changes(override: Override) -> bool:
    """Return whether an override gives another value to what there is, rather than adding or deleting it."""
    return not (override.is_add() or override.is_force_add() or override.is_delete())


def _is_word(value: Any) -> bool:
    return isinstance(value, str) and "${" not in value


def _values(override: Override) -> Iterator[Any]:
    """Yield the values of an override, of a list or a sweep each by itself; of a sweep over numbers, none."""
    value = override.value()
    values = list(override.sweep_iterator()) if isinstance(value, ChoiceSweep) else [value]
    for value in values:
        for one in value if isinstance(value, list) else [value]:
            yield one.text if isinstance(one, QuotedString) else one


def _first(override: Override, choices: Sequence[str] = ()) -> str:
    """Return an override as one is in the first job of a sweep."""
    value: Any = override.value()
    if isinstance(value, Glob):
        return f"{override.get_key_element()}={next(iter(value.filter(list(choices))), 'null')}"
    if isinstance(value, IntervalSweep):
        return f"{override.get_key_element()}={value.start}"
    if override.is_discrete_sweep():
        return f"{override.get_key_element()}={next(override.sweep_string_iterator())}"
    return str(override.input_line)


def _shown(option: str, value: str) -> str:
    """Return an option as it can be typed into a shell."""
    return f'{option}="{value}"' if not set(value) & set('"$`\\!') else shlex.quote(f"{option}={value}")


def _suggestion(word: str, known: Collection[str], text: str) -> str:
    """Return a text about those names that are like a word, or that end in it; "" where none is."""
    close = [name for name in known if name.endswith(f".{word}")][:3] or difflib.get_close_matches(word, known, n=3)
    return text.format(f"did you mean {' or '.join(close)}") if close else ""


def _either(names: Sequence[str]) -> str:
    return f"type {' or '.join(f'{name}=...' for name in names)}" if names else ""
