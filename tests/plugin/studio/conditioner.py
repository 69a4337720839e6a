"""A conditioner that reads a caption as a bag of words."""

from __future__ import annotations

import zlib
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from ldm.batch import Condition, Fields, list_field
from ldm.conditioner.base import SingleConditioner


class BagOfWords(SingleConditioner):
    """The mean of learned embeddings of the words of a caption, as one vector. No vocabulary is needed: words are hashed.

    Args:
        rows: Number of embeddings; words that share one by their hash are the same word.
        vector_width: Width of the vector.
        drop_rate: Share of the training captions that are replaced by "", in [0, 1].
    """

    inputs = ("caption",)

    def __init__(self, *, rows: int, vector_width: int, drop_rate: float) -> None:
        super().__init__(drop_rate=drop_rate)
        self.table = nn.EmbeddingBag(rows, vector_width)

    def prepare(self, samples: Iterable[Fields] | None) -> None:
        """Do nothing: nothing is learned before training."""

    def encode(self, fields: Fields, dropped: Tensor) -> Condition:
        """Return the condition of `caption`: a vector `(B, vector_width)`, zero where nothing is said."""
        captions = list_field(fields, "caption")
        words = ["" if drop else caption for caption, drop in zip(captions, dropped.tolist(), strict=True)]
        rows = [[zlib.crc32(word.encode()) % self.table.num_embeddings for word in text.split()] for text in words]
        starts = torch.tensor([0, *map(len, rows)][:-1]).cumsum(0)
        device = self.table.weight.device
        numbers = torch.tensor([number for row in rows for number in row], dtype=torch.long, device=device)
        return Condition(vector=self.table(numbers, starts.to(device)))
