"""Captions that are lists of tags, "1girl, red hair, smile": their order and number vary from epoch to epoch."""

from __future__ import annotations

import random

from ldm.options.rule import FLAG, FRACTION, Whole, check


class TagVariation:
    """Shuffles the comma-separated tags of a caption, and leaves some of them out.

    Args:
        shuffle: Put the tags in a random order.
        keep: The first so many tags stay, at their places.
        drop: The probability that another tag is left out; at least one tag of a caption stays.

    Raises:
        ValueError: If an option has a value that it cannot have.
    """

    def __init__(self, *, shuffle: bool, keep: int, drop: float) -> None:
        check("data.caption.shuffle_tags", shuffle, FLAG)
        check("data.caption.keep_tags", keep, Whole(0))
        check("data.caption.drop_tags", drop, FRACTION)
        self.shuffle = shuffle
        self.keep = keep
        self.drop = drop

    @property
    def active(self) -> bool:
        """True if captions are changed at all."""
        return self.shuffle or self.drop > 0

    def __call__(self, caption: str, rng: random.Random) -> str:
        """Return a caption with its tags in another order, and without some of them.

        Args:
            caption: The tags, with commas between them.
            rng: Draws which tags are left out, and the order.
        """
        tags = [tag for tag in (part.strip() for part in caption.split(",")) if tag]
        first, rest = tags[: self.keep], tags[self.keep :]
        stay = [tag for tag in rest if rng.random() >= self.drop] if self.drop > 0 else list(rest)
        if rest and not first and not stay:
            stay = [rng.choice(rest)]
        if self.shuffle:
            rng.shuffle(stay)
        return ", ".join([*first, *stay]) or caption
