"""Leaving out of a report what opens doors: keys, tokens, passwords, signatures of URLs."""

from __future__ import annotations

import re
from typing import Any

HIDDEN = "(hidden)"
"""The text in place of a secret."""

_NAME = re.compile(
    r"(?:^|[._-])(?:api[_-]?key|access[_-]?key(?:[_-]id)?|auth|token|secret|password|passwd|credentials?)$",
    re.IGNORECASE,
)
_USER = re.compile(r"(?<=://)[^/\s@'\"]+(?=@)")
_QUERY = re.compile(r"(\w://[^\s'\"?]+\?)[^\s'\"]*=[^\s'\"]*")


def without_secrets(node: Any, name: str = "") -> Any:
    """Return a plain config without its secrets.

    A text is a secret where its option's name ends like "token", "api_key" or "password". In URLs users with their passwords
    and queries are left out, which may hold signatures.

    Args:
        node: Plain dicts, lists and values.
        name: Name of the option that has this value; "" for none.
    """
    if isinstance(node, dict):
        return {key: without_secrets(value, str(key)) for key, value in node.items()}
    if isinstance(node, list):
        return [without_secrets(value, name) for value in node]
    if not isinstance(node, str):
        return node
    if node and _NAME.search(name):
        return HIDDEN
    return _QUERY.sub(rf"\1{HIDDEN}", _USER.sub(HIDDEN, node))


def word_without_secrets(word: str) -> str:
    """Return a word of a command line without its secrets; see `without_secrets`."""
    name, equals, value = word.partition("=")
    return f"{name}{equals}{without_secrets(value, name)}" if equals else str(without_secrets(word))
