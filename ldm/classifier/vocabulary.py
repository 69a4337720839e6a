"""The vocabulary of captions: its words, how frequent they are, and which of them a text contains."""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from ldm.conditioner.base import tensor_to_text, text_to_tensor
from ldm.options import Whole, check

TOO_FREQUENT = 0.9
"""Fraction of the captions above which a word, such as "a" or "photo", tells nothing about an image."""

TOO_RARE = 2
"""Number of captions that a word needs: a word that occurs once teaches nothing that holds for other images."""

LETTERS = re.compile(r"[^\W\d_]+")
"""Pattern of a word: a run of letters."""


class Vocabulary(nn.Module):
    """A list of words that `prepare` learns from captions; the state dict holds it, with the frequency of each word.

    Args:
        size: Largest number of words that it may learn, at least 2.

    Attributes:
        shares: The words, the most frequent first, each with the fraction of the captions that contain it.
        log_odds: The logit of each word before anything is known of an image, log(share / (1 - share)), `(size,)`; 0
            after the last word.
    """

    log_odds: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        check("model.vocabulary", size, Whole(2))
        self.size = size
        self.shares: dict[str, float] = {}
        self.register_buffer("log_odds", torch.zeros(size), persistent=False)

    def __len__(self) -> int:
        """Return the number of words."""
        return len(self.shares)

    def prepare(self, captions: Iterable[str]) -> None:
        """Learn the words of the captions, unless this was done before.

        Args:
            captions: All captions of the training set.

        Raises:
            ValueError: If there are fewer than two words to learn.
        """
        if not self.shares:
            self._know(learn_words(captions, self.size))

    def known(self, text: str) -> set[str]:
        """Return the words of a text that are in the vocabulary."""
        return words_of(text) & self.shares.keys()

    def held(self, texts: Sequence[str]) -> Tensor:
        """Return for each text which words it contains (a multi-hot vector).

        Args:
            texts: The texts, `(B,)`.

        Returns:
            1 for words that the text contains and 0 for the others, `(B, words)`.
        """
        known = [self.known(text) for text in texts]
        rows = [[float(word in words) for word in self.shares] for words in known]
        return torch.tensor(rows, device=self.log_odds.device)

    def get_extra_state(self) -> Tensor:
        """Return the words and their frequencies as a tensor, for the state dict."""
        return text_to_tensor(json.dumps(self.shares))

    def set_extra_state(self, state: Tensor) -> None:
        """Take the words and their frequencies from a state dict."""
        self._know(json.loads(tensor_to_text(state)))

    def _know(self, shares: dict[str, float]) -> None:
        """Set the words, their frequencies and the logits."""
        self.shares = shares
        odds = [math.log(share / (1.0 - share)) for share in shares.values()]
        self.log_odds.zero_()[: len(odds)] = torch.tensor(odds)


def words_of(text: str) -> set[str]:
    """Return the words of a text: runs of letters in lower case."""
    return set(LETTERS.findall(unicodedata.normalize("NFKC", text).lower()))


def learn_words(captions: Iterable[str], most: int) -> dict[str, float]:
    """Return the most frequent words of captions; the same captions give the same words.

    Words that are in more than nine tenths of the captions, or in only one, are left out.

    Args:
        captions: The captions.
        most: Largest number of words.

    Returns:
        The words, the most frequent first, each with the fraction of the captions that contain it.

    Raises:
        ValueError: If fewer than two words are left.
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
