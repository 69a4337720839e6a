"""Words that stand for tokens which a text encoder was taught later."""

from __future__ import annotations

import re
from collections.abc import Sequence

FIRST, LAST = "\ue000", "\ue001"
"""The first and the last letter of such a token: code points for private use, which no text has."""


class LearnedWords:
    """Learned words, and the tokens that texts have in their place."""

    def __init__(self) -> None:
        self._tokens: dict[str, str] = {}

    def add(self, word: str, count: int) -> list[str]:
        """Add a word, and return its tokens.

        Args:
            word: The word.
            count: Number of its tokens.
        """
        tokens = [f"{FIRST}{len(self._tokens)}.{place}{LAST}" for place in range(count)]
        self._tokens[word] = "".join(tokens)
        return tokens

    def spelled(self, texts: Sequence[str]) -> list[str]:
        """Return texts with the tokens of learned words in their place; of words that begin alike the longest counts."""
        found = list(texts)
        for word in sorted(self._tokens, key=len, reverse=True):
            found = [pattern_of(word).sub(self._tokens[word], text) for text in found]
        return found

    def read(self, texts: Sequence[str]) -> list[str]:
        """Return texts with the words in the place of their tokens."""
        found = list(texts)
        for word, tokens in self._tokens.items():
            found = [text.replace(tokens, word) for text in found]
        return found


def pattern_of(word: str) -> re.Pattern[str]:
    """Return the pattern that finds a word in a text, in letters of any case, but not inside another word."""
    return re.compile(rf"(?<!\w){re.escape(word)}(?!\w)", re.IGNORECASE)
