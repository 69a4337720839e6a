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
        if not self._tokens:
            return list(texts)
        tokens = {word.lower(): tokens for word, tokens in self._tokens.items()}
        pattern = pattern_of(*self._tokens)
        return [pattern.sub(lambda found: tokens[found[0].lower()], text) for text in texts]

    def read(self, texts: Sequence[str]) -> list[str]:
        """Return texts with the words in place of their tokens."""
        found = list(texts)
        for word, tokens in self._tokens.items():
            found = [text.replace(tokens, word) for text in found]
        return found


def pattern_of(*words: str) -> re.Pattern[str]:
    """Return the pattern that finds words in a text, in letters of any case, but not inside others; the longest first."""
    longest_first = "|".join(map(re.escape, sorted(words, key=len, reverse=True)))
    return re.compile(rf"(?<!\w)(?:{longest_first})(?!\w)", re.IGNORECASE)
