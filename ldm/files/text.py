"""Texts: cleaning of captions and prompts, lines of a file, short forms for errors."""

from __future__ import annotations

import re
from collections.abc import Iterable


def clean_text(text: str) -> str:
    """Return a text that any encoder takes: no halves of surrogate pairs, no zeros, no surrounding space.

    Captions of training and prompts of sampling both go through this one function. White space inside is left as it is.

    Args:
        text: Any text, from a file or a user.

    Returns:
        The cleaned text, which may be empty.
    """
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").replace("\0", "").strip()


def lines(text: str) -> list[str]:
    r"""Return the lines of a text file, which end with \n, \r\n or \r and with nothing else.

    (`str.splitlines` also ends them at form feeds, U+0085, U+2028 and others, which stand inside of texts.)

    Args:
        text: The whole content of the file.

    Returns:
        Its lines without their ends; an end of line at the end of the file begins no further line.
    """
    found = re.split(r"\r\n|\r|\n", text)
    return found[:-1] if found[-1] == "" else found


def shortened(text: str, most: int = 200) -> str:
    """Return a text for an error or a log: whole, or its beginning and "..." where it is long.

    Args:
        text: The text.
        most: The largest number of characters that are kept.
    """
    return text if len(text) <= most else text[:most] + "..."


def clean_prompts(prompts: str | Iterable[str]) -> list[str]:
    """Return prompts as a list, each cleaned as captions are.

    Args:
        prompts: Several prompts, or a single one.

    Raises:
        ValueError: Where one is no text.
    """
    if isinstance(prompts, str):
        return [clean_text(prompts)]
    found = list(prompts) if isinstance(prompts, Iterable) else [prompts]
    for prompt in found:
        if not isinstance(prompt, str):
            raise ValueError(f"a prompt is a text, and several are a list of texts; got {prompt!r}")
    return [clean_text(prompt) for prompt in found]
