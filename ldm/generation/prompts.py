"""Prompts of a command: one given outright, or all in a file, each with the other options of its images."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ldm.data.decode import decode_text
from ldm.files.text import clean_text, lines
from ldm.generation.inputs import INPUTS, input_rows
from ldm.options.rule import SEED, check

JSON_LINES = (".jsonl", ".ndjson")

TABLES = (".csv", ".tsv", ".parquet", ".json", ".xls", ".xlsx")
"""Endings of files that hold prompts in a form that is not read."""

UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")

NOT_TEXT = re.compile(r"[\x01-\x08\x0e-\x1a]")
"""Characters that, like zeros, stand in nearly every binary file and in no text file."""

WHAT_TO_DO = (
    'write one prompt a line into a .txt file, or lines like {"prompt": "a red heart", "seed": 5} into a .jsonl file'
)


class Prompt(NamedTuple):
    """A text that says what is to be seen, and what else says it.

    Attributes:
        text: The prompt itself; None: there is none.
        seed: The seed of its first image; None: as the images are numbered.
        negative: The negative prompt; None: none was given.
        inputs: Option of `INPUTS` -> its source.
    """

    text: str | None = None
    seed: int | None = None
    negative: str | None = None
    inputs: Mapping[str, Any] = {}


def read_prompts(
    prompt: str | None,
    prompts: str | None,
    negative: str | None = None,
    inputs: Mapping[str, Any] | None = None,
) -> list[Prompt]:
    """Return the prompts of a command: one given outright, or those of a text file or a .jsonl file.

    White space around each is taken off, as it is of captions in training; lines of white space alone are skipped. Where
    there are several inputs, each is combined with each prompt.

    Args:
        prompt: One prompt.
        prompts: Or a file of them.
        negative: The negative prompt of all that have none of their own.
        inputs: Option of `INPUTS` -> its value, for all prompts that have none of their own; None is no value.

    Raises:
        ValueError: Where both are given, the file is not one of prompts, or an input cannot be read.
    """
    if prompt is not None and prompts is not None:
        raise ValueError('give one of prompt="a red heart on a white background" and prompts=FILE, not both')
    found = (
        _read_file(Path(str(prompts)))
        if prompts is not None
        else [Prompt(None if prompt is None else clean_text(prompt))]
    )
    for_all = clean_text(negative or "") or None
    return [
        one._replace(negative=for_all if one.negative is None else one.negative, inputs={**row, **one.inputs})
        for row in input_rows(inputs or {})
        for one in found
    ]


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
        raise ValueError(
            f'there is no file prompts={file}; a single prompt is prompt="..."; of several, {WHAT_TO_DO}'
        ) from error
    except OSError as error:
        raise ValueError(f"prompts={file} cannot be read ({error.strerror}); {WHAT_TO_DO}") from error
    text = decode_text(data)
    if NOT_TEXT.search(text) or (data[:2] not in UTF16_MARKS and b"\0" in data):
        raise ValueError(f"prompts={file} is not a text file; {WHAT_TO_DO}")
    return text


def _parse(line: str, place: str) -> Prompt:
    """Return the prompt in a line of a .jsonl file."""
    found = _json(line)
    if isinstance(found, dict):
        _check_keys(found, place)
    inputs = _inputs(found, place) if isinstance(found, dict) else {}
    if not isinstance(found, dict) or not isinstance(found.get("prompt"), str if not inputs else str | None):
        raise ValueError(f'{place} is not an object with a text "prompt": {line[:60]}; {WHAT_TO_DO}')
    seed, negative = found.get("seed"), found.get("negative")
    if seed is not None:
        check(f'{place}: "seed"', seed, SEED)
    if not isinstance(negative, str | None):
        raise ValueError(f'{place}: "negative" is a text; got {negative!r}')
    texts = [None if text is None else clean_text(text) for text in (found.get("prompt"), negative)]
    return Prompt(texts[0], seed, texts[1], inputs)


def _check_keys(found: Mapping[str, Any], place: str) -> None:
    """Raise ValueError where a key is not known; in lines of a samples.jsonl the others say how an image was made.

    Such lines are known by `file`, the name of the image.
    """
    known = ("prompt", "seed", "negative", *INPUTS)
    if "file" in found:
        return
    for key in found:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {near[0]}? " if near else ""
            raise ValueError(f"{place} has the unknown key {key!r}; {hint}choose from {', '.join(known)}")


def _inputs(found: Mapping[str, Any], place: str) -> dict[str, Any]:
    """Return the inputs in an object of a .jsonl file, each with one source."""
    try:
        rows = input_rows({name: value for name, value in found.items() if name in INPUTS})
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from error
    if len(rows) > 1:
        raise ValueError(f"{place} names several inputs; write a line for each image")
    return rows[0]


def _json(line: str) -> Any:
    """Return the value that a line holds as JSON; None where it is no JSON."""
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None
