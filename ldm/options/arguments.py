"""Words of a command line: how texts and names of files are quoted for Hydra, and what a folder for some options is called.

How to quote: every value is read as anywhere in Hydra. `seed=1,2` is a sweep under `-m`, `[a,b]` a list, `${oc.env:HOME}/x` an
interpolation, and `'a,b'` one text; a shell takes quotes away, so that they stand in other ones: `name="'a,b'"`. Two kinds of
options ask for less. Prose (`prompt`, `negative`, `to_prompt`, `init_prompt`) is never read by Hydra: quotes for the shell are
enough, `prompt="a cat, red"`; several for a sweep are given as `-m 'prompt=choice("a cat","a dog")'`. Names (of files, folders,
shards, runs, models) are taken as they are wherever Hydra would not read them as a text: `out=2024`, `ckpt=runs/a=b`,
`data.train='/data/{00000..00099}.tar'`; under `-m` commas outside of brackets and quotes separate several.
"""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override

PROSE_OPTIONS = ("prompt", "negative", "to_prompt", "init_prompt")
"""Last parts of the names of options whose values are texts: Hydra never reads them."""

PATTERN_OPTIONS = ("data.train", "data.val", "database", "lora")
"""Full names of options whose values are files or patterns of them, or lists in [...]."""

FILE_OPTIONS = ("ckpt", "decoder", "out", "images", "captions", "prompts", "init", "mask", "run", "expected", "curve")
"""Last parts of the names of options whose values are files that a user types: a shell may make several of one with braces."""

NAME_OPTIONS = (
    *FILE_OPTIONS,
    *("name", "path", "folder", "cache", "weights", "vgg16", "linear", "data_dir", "runs_dir", "output_dir"),
    *("index", "image_column", "caption_column", "project", "group", "entity", "notes", "save_dir"),
)
"""Last parts of the names of options whose values are names or folders: a list, a number or a mapping is none."""

LONGEST = 150
"""Bytes in the name of a folder that is made of options."""

SEARCH_PATH = "hydra.searchpath="
"""How the option begins that names further folders of configs."""

MULTIRUN = ("-m", "--multirun")

_typed: list[str] = []


def keep_typed(words: Sequence[str]) -> None:
    """Keep the words of the command line before they are rewritten, for the record of what is done with them."""
    _typed[:] = words


def kept_words() -> list[str]:
    """Return the words of the command line as they were typed; none where no command has begun this process."""
    return list(_typed)


def command_name(program: str) -> str:
    """Return the command of a program, "train" or "sample", in the form of the running one: from a checkout, or installed."""
    begun = Path(sys.argv[0])
    if begun.name in ("train.py", "sample.py"):
        return f"python {shlex.quote(os.path.relpath(begun.with_name(f'{program}.py')))}"
    is_checkout = not begun.name.startswith("ldm-") and Path(f"{program}.py").is_file()
    return f"python {program}.py" if is_checkout else f"ldm-{program}"


def parse_override(argument: str) -> Override | None:
    """Return an argument as Hydra reads it, or None where it is not of Hydra's grammar."""
    # here, since names of commands need no Hydra
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        return OverridesParser.create().parse_override(argument)
    except HydraException:
        return None


def is_name(option: str) -> bool:
    """Return whether the values of an option, given by its full name, are names of files and the like."""
    return option in PATTERN_OPTIONS or option.rpartition(".")[2] in NAME_OPTIONS


def is_prose(option: str) -> bool:
    """Return whether the values of an option, given by its full name, are prose."""
    return option.rpartition(".")[2] in PROSE_OPTIONS


def quote_texts(arguments: Sequence[str], sweep: bool | None = None) -> list[str]:
    """Quote the values of prose and names that Hydra would not take as they are.

    Quoting again changes nothing, since a process that Lightning starts reads the same words a second time.

    Args:
        arguments: The words of a command line.
        sweep: Whether commas separate the values of a sweep; None: where `-m` is among the arguments.

    Returns:
        As many words, in the same order.
    """
    swept = not set(MULTIRUN).isdisjoint(arguments) if sweep is None else sweep
    return [_quote(argument, swept) for argument in arguments]


def as_typed(argument: str) -> str:
    """Return an argument without the quotes that `quote_texts` gave it, where it gives them again."""
    name, _, value = argument.partition("=")
    plain = f"{name}={value[1:-1]}"
    return plain if is_quoted(value) and quote_texts([plain]) == [argument] else argument


def is_quoted(value: str) -> bool:
    """Return whether a value is one text in quotes, as Hydra's grammar has it."""
    return re.fullmatch(r"""'(\\.|[^'\\])*'|"(\\.|[^"\\])*\"""", value) is not None


def quoted(value: str) -> str:
    """Return a text in quotes, so that Hydra takes it as it is."""
    return _in_quotes(value).replace("${", "\\${")


def _in_quotes(value: str) -> str:
    """Return a text in quotes in which an interpolation ${...} stays one."""
    return "'" + re.sub(r"(\\*)('|$)", lambda found: 2 * found[1] + ("\\'" if found[2] else ""), value) + "'"


def _quote(argument: str, swept: bool) -> str:
    name, equals, value = argument.partition("=")
    option = name.lstrip("+")
    if not equals or name.startswith(("-", "~")) or value in ("", "null", "???"):
        return argument
    if is_prose(option):
        return f"{name}={_quote_prose(value, swept)}"
    if not is_name(option):
        return argument
    items = split_values(value) if swept else [value]
    return f"{name}={','.join(_quote_name(item, option in PATTERN_OPTIONS, swept) for item in items)}"


def _quote_prose(value: str, swept: bool) -> str:
    """Return prose in quotes; of a list for a sweep, choice(...) or texts that all are in quotes, each text by itself."""
    if swept and (found := re.fullmatch(r"choice\((.*)\)", value)) is not None:
        # Hydra takes the quotes of what stands in choice(...) away, and cannot read every text without
        return ",".join(item if is_quoted(item) else quoted(item) for item in split_values(found[1]))
    several = swept and all(map(is_quoted, split_values(value)))
    return value if several or is_quoted(value) else quoted(value)


def _quote_name(value: str, may_be_list: bool, swept: bool) -> str:
    """Return one name as Hydra shall read it: as it is where Hydra reads a text, else in quotes."""
    read = parse_override(f"x={value}")
    if may_be_list and value.startswith("[") and value.endswith("]"):
        items = f"[{','.join(_quote_name(item, True, swept) for item in split_values(value[1:-1]))}]"
        return value if read is not None or parse_override(f"x={items}") is None else items
    if read is not None and (swept if read.is_sweep_override() else isinstance(read.value(), str | None)):
        return value
    return _in_quotes(value)


def split_values(value: str) -> list[str]:
    """Split a value at those commas that stand in no brackets and in no quotes: "a,{b,c}" -> ["a", "{b,c}"]."""
    items, depth, quote = [""], 0, ""
    for place, letter in enumerate(value):
        if quote:
            quote = "" if letter == quote and value[place - 1] != "\\" else quote
        elif letter in "'\"" and not items[-1].strip("([{ "):
            quote = letter
        elif letter == "," and depth == 0:
            items.append("")
            continue
        else:
            depth += (letter in "([{") - (letter in ")]}")
        items[-1] += letter
    return [item.strip() for item in items]


def why_no_option(arguments: Sequence[str], place: int) -> str:
    """Return advice on an argument without "=", which is mostly the rest of a text that was not quoted."""
    word = arguments[place]
    first = next((i for i in range(place - 1, -1, -1) if "=" in arguments[i] or arguments[i].startswith("-")), place)
    last = next(
        (i for i in range(place, len(arguments)) if "=" in arguments[i] or arguments[i].startswith("-")), len(arguments)
    )
    name, equals, value = arguments[first].partition("=")
    if not equals or name.startswith("-"):
        whose = f", so say which option it is for: OPTION={word}" if os.path.exists(word) else ""
        return f"{word!r} is not of the form option=value{whose}; --help shows all options"
    text = " ".join([_unquoted(value), *arguments[first + 1 : last]])
    return f'{word!r} is no option; where it belongs to {name}, put the whole in quotes: {name}="{text}"'


def _unquoted(value: str) -> str:
    return value[1:-1].replace("\\'", "'") if value.startswith("'") and is_quoted(value) else value


def job_name(overrides: Sequence[str]) -> str:
    """Return a name that a folder can have and that no other overrides have.

    Args:
        overrides: The overrides in which a job of a sweep differs from others, like `seed=1`. Their order does not matter.

    Returns:
        The overrides, joined by commas; where letters had to be replaced, or the name to be cut, with a hash of them.
    """
    text = ",".join(sorted(overrides))
    safe = "".join(letter if letter.isalnum() or letter in "=,.+-_" else "-" for letter in text)
    short = safe.encode()[:LONGEST].decode(errors="ignore")
    if short == text:
        return text or "defaults"
    return f"{short}-{hashlib.sha256(text.encode(errors='surrogateescape')).hexdigest()[:8]}"
