"""The contract between data and model: what a batch holds and what a backbone is told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


class Batch(NamedTuple):
    """Captioned images as they leave the data module. Exactly one of `image` and `moments` is given.

    key      names of the samples, `(B,)`
    caption  `(B,)`
    image    `(B, 3, H, W)` in [-1, 1]
    moments  mean and log-variance of the raw latent's posterior, `(B, 2C, H/f, W/f)`
    """

    key: list[str]
    caption: list[str]
    image: Tensor | None = None
    moments: Tensor | None = None


@dataclass(frozen=True)
class Condition:
    """What a backbone is told about the image beside x_t and t.

    tokens  sequence for cross-attention, `(B, L, D)`
    mask    True where a token counts, `(B, L)`; None: all count
    concat  maps put beside x_t, `(B, C, h, w)`
    """

    tokens: Tensor | None = None
    mask: Tensor | None = None
    concat: Tensor | None = None

    def mean_token(self) -> Tensor:
        """The mean of the tokens that count, `(B, D)`."""
        assert self.tokens is not None
        if self.mask is None:
            return self.tokens.mean(1)
        counts = self.mask[:, :, None].to(self.tokens.dtype)
        return (self.tokens * counts).sum(1) / counts.sum(1)

    @staticmethod
    def cat(conditions: list[Condition]) -> Condition:
        """Put several conditions of one kind behind one another along the batch."""
        return Condition(
            tokens=_cat([c.tokens for c in conditions]),
            mask=_cat([c.mask for c in conditions]),
            concat=_cat([c.concat for c in conditions]),
        )


def _cat(parts: list[Tensor | None]) -> Tensor | None:
    given = [part for part in parts if part is not None]
    if given and len(given) != len(parts):
        raise ValueError(
            "conditions of different kinds: some have this part and some do not; build all by one conditioner"
        )
    return torch.cat(given) if given else None
