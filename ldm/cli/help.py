"""The text that `--help` prints: how a program is used, the choices of its groups, and all options with values and comments.

The comments are those of the config files, so that what is documented stands in one place.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from ldm.cli.command_line import CommandLine
from ldm.cli.mistakes import check_options
from ldm.config import CONFIGS, choices_of, options_of
from ldm.options.arguments import command_name

COLUMN = 44
"""The column in which comments begin."""

LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

WIRE = re.compile(r"\$\{[\w.]+\}")
"""A value that only repeats another option's."""


def help_text(name: str, line: CommandLine, under: str = "", alternatives: str = "") -> str:
    """Return the text that `--help` prints.

    Args:
        name: The program's: its config is `configs/<name>.yaml`.
        line: The command line; choices and options on it are taken into account.
        under: The node that typed options belong to; "" for the whole config.
        alternatives: The group whose other choices are listed with the options that they have; "" for none.

    Raises:
        UsageError: The command line has a mistake.
    """
    config = check_options(name, line)
    made = config.hydra.runtime.choices  # debug=tiny chooses by itself for parts of the config
    chosen = {group: choice for group, choice in made.items() if not group.startswith(("hydra/", "debug@"))}
    folders = [CONFIGS, *(Path(place.removeprefix("file://")) for place in line.folders)]
    for entry in _defaults(CONFIGS / f"{name}.yaml"):  # Hydra does not tell what was chosen where that is a list
        lists = entry.items() if isinstance(entry, dict) else ()
        chosen = {group: None for group, choice in lists if isinstance(choice, list)} | chosen
    comments = _all_comments(CONFIGS / f"{name}.yaml", chosen, folders)
    options = dict(sorted(options_of(config).items(), key=lambda item: "." in item[0]))  # those of no group first
    lines = [_head(CONFIGS / f"{name}.yaml"), ""]
    if chosen and not under:
        lines += ["Choices (group=choice), in brackets the one in use:", "", *_choices(name, chosen, line), ""]
    lines += ["Options (option=value), with the values that they have unless given:", ""]
    for option, value in options.items():
        is_ours = option.startswith(f"{under}." if under else "") and not option.startswith("hydra")
        if is_ours and _is_shown(option, value, comments, show_wires=bool(under)):
            lines.append(_option(option.removeprefix(f"{under}."), value, comments.get(option, "")))
    if alternatives:
        lines += _alternatives(alternatives, chosen, folders)
    lines += ["", "With -m an option may have several values, each for a job of its own: -m OPTION=VALUE,VALUE"]
    return "\n".join([*lines, "To see the config that options make: --cfg job"])


def _head(file: Path) -> str:
    """Return the comment at the beginning of a config, with the commands as this program was begun."""
    lines = []
    for line in file.read_text().splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.removeprefix("#").removeprefix(" "))
    text = "\n".join(lines)
    for program in ("train", "sample"):
        text = text.replace(f"python {program}.py", command_name(program))
    return text


def _choices(name: str, chosen: dict[str, Any], line: CommandLine) -> Iterator[str]:
    """Yield a line for each group: its choices, and the one in use."""
    found = choices_of(name, {group.partition("@")[0] for group in chosen}, line.options)
    width = max(map(len, chosen))
    for group, choice in reversed(chosen.items()):
        if (choices := found.get(group.partition("@")[0])) is not None:
            used = "" if choice is None else f" ({choice})"
            yield f"  {group:<{width}}  {', '.join(choices)}{used}"


def _alternatives(group: str, chosen: dict[str, Any], folders: list[Path]) -> Iterator[str]:
    """Yield the choices of a group that are not in use, each with its own options."""
    files = {file.stem: file for folder in reversed(folders) for file in sorted((folder / group).glob("*.yaml"))}
    for choice, file in files.items():
        if choice != chosen.get(group):
            comments = _comments(file)
            notes = [line for line in file.read_text().splitlines() if line.startswith("# ") and "@package" not in line]
            yield from ("", f"Options with {group}={choice}{': ' + notes[0][2:] if notes else ''}", "")
            for option, value in (yaml.load(file.read_text(), LOADER) or {}).items():
                if option not in (group, "defaults"):
                    yield _option(option, value, comments.get(option, ""))


def _is_shown(option: str, value: Any, comments: dict[str, str], *, show_wires: bool) -> bool:
    """Return whether an option is listed: a value that no other option decides, or one that a comment explains."""
    is_private = any(part.startswith("_") for part in option.split("."))
    is_wire = isinstance(value, str) and WIRE.fullmatch(value) is not None and not show_wires
    return not is_private and not isinstance(value, dict) and (not is_wire or option in comments)


def _option(option: str, value: Any, comment: str) -> str:
    shown = (
        yaml.safe_dump(value, default_flow_style=True, width=10**6, allow_unicode=True).removesuffix("\n...\n").strip()
    )
    text = f"  {option}={shown}"
    return f"{text:<{COLUMN}}  {comment}".rstrip()


def _all_comments(primary: Path, chosen: dict[str, Any], folders: list[Path]) -> dict[str, str]:
    """Return full name of an option -> its comment, from the files that the options of a config come from."""
    found = _comments(primary)
    for group, choice in chosen.items():
        name, _, package = group.partition("@")
        for file in [folder / name / f"{choice}.yaml" for folder in folders]:
            if file.is_file():
                found.update(_under(_package(file, package or name.replace("/", ".")), _comments(file)))
                break
    for file in CONFIGS.glob("*/*.yaml"):  # groups of which several are chosen at once name their own packages
        package = _package(file, "")
        for option, comment in _under(package, _comments(file)).items() if package else ():
            found.setdefault(option, comment)
    return found


def _package(file: Path, otherwise: str) -> str:
    """Return the node that a config file says its options belong to; "" for the whole config."""
    found = re.match(r"# @package (\S+)", file.read_text())
    return otherwise if found is None else found[1].removeprefix("_global_").removeprefix(".")


def _under(package: str, comments: dict[str, str]) -> dict[str, str]:
    return {f"{package}.{option}" if package else option: comment for option, comment in comments.items()}


def _comments(file: Path) -> dict[str, str]:
    """Return the comments of one file and of those beside it that it is made from."""
    text = file.read_text()
    root = yaml.compose(text, LOADER)
    if not isinstance(root, yaml.MappingNode):
        return {}
    found: dict[str, str] = {}
    for base in _defaults(file):
        beside = file.parent / f"{base.partition('@')[0]}.yaml" if isinstance(base, str) else file
        if beside != file and beside.is_file():
            found.update(_comments(beside))
    found.update(_comments_in(root, text.splitlines(), ""))
    return found


def _defaults(file: Path) -> list[Any]:
    """Return the defaults list of a config file."""
    root = yaml.load(file.read_text(), LOADER)
    return (root.get("defaults") or []) if isinstance(root, dict) else []


def _comments_in(node: yaml.MappingNode, lines: list[str], prefix: str) -> Iterator[tuple[str, str]]:
    for key, value in node.value:
        option = f"{prefix}{key.value}"
        is_block = isinstance(value, yaml.CollectionNode) and not value.flow_style
        end = key.end_mark if is_block else value.end_mark
        _, mark, comment = lines[end.line][end.column :].partition("# ") if end.line < len(lines) else ("", "", "")
        if mark:
            yield option, comment.strip()
        elif key.start_mark.line and lines[key.start_mark.line - 1].strip().startswith("# ") and prefix:
            yield option, lines[key.start_mark.line - 1].strip().removeprefix("# ")
        if isinstance(value, yaml.MappingNode):
            yield from _comments_in(value, lines, f"{option}.")
