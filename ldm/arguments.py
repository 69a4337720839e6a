"""Words of a command line: which of them are texts, how they are quoted, and what a folder for some of them is called."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from fnmatch import fnmatchcase

PROSE_OPTIONS = ("prompt", "negative", "to_prompt", "init_prompt")
"""Options whose values are texts: they are never parsed by Hydra."""

PATTERN_OPTIONS = ("data.train", "data.val")
"""Options whose values are patterns of files, or lists of them in [...]."""

TEXT_OPTIONS = (
    *PROSE_OPTIONS,
    *PATTERN_OPTIONS,
    *("prompts", "init", "mask", "ckpt", "decoder", "out", "images", "captions"),
    *("run", "autoencoder.ckpt", "conditioner.name", "alignment.encoder.name"),
    *("guidance.weak.path", "guidance.classifier.path", "guidance.score.image.path", "guidance.score.name"),
)
"""These, and options whose values are names of files: they are never parsed."""

NAME_OPTIONS = (
    *("name", "run_dir", "paths.*", "*.path", "*.folder", "*.cache", "*.weights", "*.vgg16", "*.linear"),
    *("image_column", "caption_column"),
    *(f"logger.*.{part}" for part in ("project", "group", "entity", "name", "notes", "save_dir")),
)
"""Patterns of options whose values are names or folders: they are never parsed, unless they hold an interpolation ${...}."""

LONGEST = 150
"""Bytes in the name of a folder that is made of options."""

MULTIRUN = ("-m", "--multirun")


def quote_texts(arguments: Sequence[str]) -> list[str]:
    """Command-line arguments with free text and patterns quoted, so that Hydra takes their commas and braces as they are."""
    swept = not set(MULTIRUN).isdisjoint(arguments)
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
    escaped = re.sub(r"(\\*)('|$)", lambda found: 2 * found[1] + ("\\'" if found[2] else ""), value)
    return "'" + escaped.replace("${", "\\${") + "'"


def _quote(argument: str, swept: bool) -> str:
    name, equals, value = argument.partition("=")
    if not equals or value in ("", "null", "???") or is_quoted(value) or not _is_text(name.lstrip("+"), value):
        return argument
    if swept and name not in PROSE_OPTIONS and re.fullmatch(r"choice\(.*\)", value):
        return argument
    return f"{name}={quoted(value)}"


def _is_text(name: str, value: str) -> bool:
    """Whether the value of an option is a text: a list is one only where there cannot be lists."""
    if name in PATTERN_OPTIONS:
        return not (value.startswith("[") and value.endswith("]"))
    if name in TEXT_OPTIONS:
        return True
    return "${" not in value and any(fnmatchcase(name, pattern) for pattern in NAME_OPTIONS)


def why_no_option(arguments: Sequence[str], place: int) -> str:
    """Say what to do about an argument without "=": it is mostly the rest of a text that was not in quotes."""
    word = arguments[place]
    first = next((i for i in range(place - 1, -1, -1) if "=" in arguments[i] or arguments[i].startswith("-")), place)
    last = next(
        (i for i in range(place, len(arguments)) if "=" in arguments[i] or arguments[i].startswith("-")), len(arguments)
    )
    name, equals, value = arguments[first].partition("=")
    if not equals or name.startswith("-"):
        return f"{word!r} is not of the form option=value; --help shows all options"
    text = " ".join([_unquoted(value), *arguments[first + 1 : last]])
    return f'{word!r} is no option; where it belongs to {name}, put the whole in quotes: {name}="{text}"'


def _unquoted(value: str) -> str:
    return value[1:-1].replace("\\'", "'") if value.startswith("'") and is_quoted(value) else value


def job_name(overrides: Sequence[str]) -> str:
    """Return a name that a folder can have and that no other overrides have.

    Args:
        overrides: Those that make a job of a sweep what it is, like `seed=1`. Their order does not matter.

    Returns:
        The overrides, joined by commas; where letters had to be replaced, or the name to be cut, with a hash of them.
    """
    text = ",".join(sorted(overrides))
    safe = "".join(letter if letter.isalnum() or letter in "=,.+-_" else "-" for letter in text)
    short = safe.encode()[:LONGEST].decode(errors="ignore")
    if short == text:
        return text or "defaults"
    return f"{short}-{hashlib.sha256(text.encode(errors='surrogateescape')).hexdigest()[:8]}"
