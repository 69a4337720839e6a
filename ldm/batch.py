"""The contract between data and model: what a batch holds and what a backbone is told."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ldm.options import SIZE, check


class Size(NamedTuple):
    """The size of images in pixels.

    Args:
        height: Number of rows.
        width: Number of columns.
    """

    height: int
    width: int

    def __str__(self) -> str:
        return str(self.height) if self.height == self.width else f"[{self.height},{self.width}]"


def as_size(size: int | Sequence[int]) -> Size:
    """Return a size that was given as one number, for squares, or as height and width.

    Raises:
        ValueError: Where it is neither.
    """
    check("size", size, SIZE)
    return Size(size, size) if isinstance(size, int) else Size(*size)


class Condition(NamedTuple):
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

    def where(self, rows: Tensor, other: Condition) -> Condition:
        """The rows `(B,)` (bool) from `other`, which may be a batch of one, and all others from here."""
        parts: list[Tensor | None] = []
        for here, there in zip(self, other, strict=True):
            if (here is None) != (there is None):
                raise ValueError("conditions of different kinds cannot be mixed; build both by one conditioner")
            if here is None or there is None:
                parts.append(None)
            else:
                parts.append(torch.where(rows.view(-1, *[1] * (here.ndim - 1)), there, here))
        return Condition(*parts)

    def lerp(self, other: Condition, shares: Tensor) -> Condition:
        """Each row the share `(B,)` in [0, 1] of the way to its like in another condition; between, tokens of both count."""

        def between(here: Tensor | None, there: Tensor | None) -> Tensor | None:
            if here is None or there is None:
                return here
            return torch.lerp(here, there, shares.view(-1, *[1] * (here.ndim - 1)))

        mask = self.mask
        if mask is not None and other.mask is not None:
            ours, theirs = (shares < 1)[:, None], (shares > 0)[:, None]
            mask = (mask & ours) | (other.mask & theirs)
        return Condition(between(self.tokens, other.tokens), mask, between(self.concat, other.concat))

    @staticmethod
    def cat(conditions: list[Condition]) -> Condition:
        """Put several conditions of one kind behind one another along the batch."""
        return Condition(
            tokens=_cat([c.tokens for c in conditions]),
            mask=_cat([c.mask for c in conditions]),
            concat=_cat([c.concat for c in conditions]),
        )


class Skip(NamedTuple):
    """A sample that cannot be used: where it is and why, in a few words by which such samples are counted."""

    shard: str
    key: str
    reason: str


class Batch(NamedTuple):
    """Captioned images as they leave the data module. Exactly one of `image` and `moments` is given.

    key       names of the samples, `(B,)`
    caption   `(B,)`
    image     `(B, 3, H, W)` in [-1, 1]
    moments   mean and log-variance of the raw latent's posterior, `(B, 2C, H/f, W/f)`
    geometry  how each image was cut, in pixels, `(B, 6)`: height and width of the original; top and left of the crop in
              the resized image; height and width of the result. Paper: Podell et al., 2023, section 2.2, arXiv:2307.01952
    text      what a frozen text encoder gave for the captions, where it was cached
    skipped   broken samples whose places in this batch were taken by others
    """

    key: list[str]
    caption: list[str]
    image: Tensor | None = None
    moments: Tensor | None = None
    geometry: Tensor | None = None
    text: Condition | None = None
    skipped: Sequence[Skip] = ()


def _cat(parts: list[Tensor | None]) -> Tensor | None:
    given = [part for part in parts if part is not None]
    if given and len(given) != len(parts):
        raise ValueError(
            "conditions of different kinds: some have this part and some do not; build all by one conditioner"
        )
    return torch.cat(given) if given else None
