"""The words of captions: which of them there are, how frequent they are, and which of them a text holds."""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from ldm.batch import Fields, list_field
from ldm.conditioner.base import Reader, on_device, tensor_to_text, text_to_tensor
from ldm.options.rule import Whole, check

TOO_FREQUENT = 0.9
"""Fraction of the captions above which a word, "a" or "photo", tells nothing about an image."""

TOO_RARE = 2
"""The number of captions that must have a word: from one that occurs once, nothing general can be learned."""

LETTERS = re.compile(r"[^\W\d_]+")


class Vocabulary(Reader):
    """Words that are learned from captions by `prepare` and travel in the state dict, with their shares of the captions.

    Args:
        size: Most words that it may learn.

    Attributes:
        log_odds: log(share / (1 - share)) of each word's share of the captions, `(size,)`; 0 after the last word.
    """

    inputs = ("caption",)
    learns_from = ("caption",)
    log_odds: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        check("model.vocabulary", size, Whole(2))
        self.size = size
        self.fractions: dict[str, float] = {}
        self.register_buffer("log_odds", torch.zeros(size), persistent=False)

    def __len__(self) -> int:
        return len(self.fractions)

    def prepare(self, samples: Iterable[Fields] | None) -> None:
        """Learn the words of the captions of some samples, once.

        Raises:
            ValueError: Where there are fewer than two words to learn.
        """
        if not self.fractions and samples is not None:
            captions = (caption for fields in samples for caption in list_field(fields, "caption"))
            self._know(learn_words(captions, self.size))

    def known(self, text: str) -> set[str]:
        """The words of a text that are in the vocabulary."""
        return words_of(text) & self.fractions.keys()

    def multi_hot(self, texts: Sequence[str]) -> Tensor:
        """Return 1 for the words that a text contains and 0 for the others, `(B, words)`."""
        known = [self.known(text) for text in texts]
        rows = [[float(word in words) for word in self.fractions] for words in known]
        return on_device(torch.tensor(rows), self.log_odds.device)

    def get_extra_state(self) -> Tensor:
        """Return the words and their shares, for the state dict."""
        return text_to_tensor(json.dumps(self.fractions))

    def set_extra_state(self, state: Tensor) -> None:
        """Take the words and their shares from a state dict."""
        self._know(json.loads(tensor_to_text(state)))

    def _know(self, fractions: dict[str, float]) -> None:
        self.fractions = fractions
        logits = [math.log(fraction / (1.0 - fraction)) for fraction in fractions.values()]
        self.log_odds.zero_()[: len(logits)] = torch.tensor(logits)


def words_of(text: str) -> set[str]:
    """The words of a text: runs of letters in lower case."""
    return set(LETTERS.findall(unicodedata.normalize("NFKC", text).lower()))


def learn_words(captions: Iterable[str], most: int) -> dict[str, float]:
    """At most `most` words with their shares of the captions, the most frequent first; the same for the same captions.

    Left out are words of more than nine tenths of the captions, and of a single one. Raises ValueError where fewer than
    two are left.
    """
    counts: Counter[str] = Counter()
    total = 0
    for caption in captions:
        counts.update(words_of(caption))
        total += 1
    useful = [word for word, count in counts.items() if TOO_RARE <= count <= TOO_FREQUENT * total]
    if len(useful) < 2:
        raise ValueError(
            f"{total} captions with {len(counts)} words have {len(useful)} that tell images apart, those in at least "
            f"{TOO_RARE} captions and at most {TOO_FREQUENT:.0%} of them; a classifier needs 2, so give other captions"
        )
    ranked = sorted(useful, key=lambda word: (-counts[word], word))
    return {word: counts[word] / total for word in ranked[:most]}
