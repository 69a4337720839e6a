"""Prompts of a command: one given outright, or those of a file."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

from ldm.data.decode import decode_text
from ldm.files.text import clean_text, lines
from ldm.options.rule import SEED, check

JSON_LINES = (".jsonl", ".ndjson")

TABLES = (".csv", ".tsv", ".parquet", ".json", ".xls", ".xlsx")
"""Endings of files that hold prompts in a form that is not read."""

UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")

NOT_TEXT = re.compile(r"[\x01-\x08\x0e-\x1a]")
"""What no text file holds, beside zeros, and nearly every other file."""

WHAT_TO_DO = (
    'write one prompt a line into a .txt file, or lines like {"prompt": "a red heart", "seed": 5} into a .jsonl file'
)


class Prompt(NamedTuple):
    """A text that says what is to be seen.

    Attributes:
        text: The prompt itself.
        seed: The seed of its first image; None: as the images are numbered.
        negative: The negative prompt; None: none was given.
    """

    text: str
    seed: int | None = None
    negative: str | None = None


def read_prompts(prompt: str | None, prompts: str | None, negative: str | None = None) -> list[Prompt]:
    """Return the prompts of a command: one given outright, or those of a text file or a .jsonl file.

    White space around each is taken off, as it is of captions in training; lines of white space alone are skipped.

    Args:
        prompt: One prompt.
        prompts: Or a file of them.
        negative: The negative prompt of all that have none of their own.

    Raises:
        ValueError: Where both or none are given, or the file is not one of prompts.
    """
    if (prompt is None) == (prompts is None):
        raise ValueError('give one of prompt="a red heart on a white background" and prompts=FILE')
    found = [Prompt(clean_text(prompt))] if prompt is not None else _read_file(Path(str(prompts)))
    for_all = clean_text(negative or "") or None
    return [one._replace(negative=for_all) if one.negative is None else one for one in found]


def _read_file(file: Path) -> list[Prompt]:
    """Return the prompts in a file."""
    rows = [(number, line) for number, line in enumerate(lines(_read(file)), start=1) if clean_text(line)]
    if not rows:
        raise ValueError(f"no prompts in {file}; {WHAT_TO_DO}")
    if file.suffix.lower() in JSON_LINES:
        return [_parse(line, f"line {number} of {file}") for number, line in rows]
    if isinstance(_json(rows[0][1]), dict):
        raise ValueError(f"{file} holds JSON; rename it to {file.stem}.jsonl, or {WHAT_TO_DO}")
    return [Prompt(clean_text(line)) for _, line in rows]


def _read(file: Path) -> str:
    """Return the text in a file, its line ends as they are."""
    if file.is_dir():
        raise ValueError(f"prompts={file} is a folder; give a file: {WHAT_TO_DO}")
    if file.suffix.lower() in TABLES:
        raise ValueError(f"prompts={file}: files of this kind are not read; {WHAT_TO_DO}")
    try:
        data = file.read_bytes()
    except FileNotFoundError as error:
        raise ValueError(f"there is no file prompts={file}; {WHAT_TO_DO}") from error
    except OSError as error:
        raise ValueError(f"prompts={file} cannot be read ({error.strerror}); {WHAT_TO_DO}") from error
    text = decode_text(data)
    if NOT_TEXT.search(text) or (data[:2] not in UTF16_MARKS and b"\0" in data):
        raise ValueError(f"prompts={file} is not a text file; {WHAT_TO_DO}")
    return text


def _parse(line: str, place: str) -> Prompt:
    """Return the prompt in a line of a .jsonl file; keys that are not known, like those of samples.jsonl, play no part."""
    found = _json(line)
    if not isinstance(found, dict) or not isinstance(found.get("prompt"), str):
        raise ValueError(f'{place} is not an object with a text "prompt": {line[:60]}; {WHAT_TO_DO}')
    seed, negative = found.get("seed"), found.get("negative")
    if seed is not None:
        check(f'{place}: "seed"', seed, SEED)
    if not isinstance(negative, str | None):
        raise ValueError(f'{place}: "negative" is a text; got {negative!r}')
    return Prompt(clean_text(found["prompt"]), seed, None if negative is None else clean_text(negative))


def _json(line: str) -> Any:
    """Return the value that a line holds as JSON; None where it is no JSON."""
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None
