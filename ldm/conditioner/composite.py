"""Several conditioners as one."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from ldm.batch import Condition, Fields
from ldm.conditioner.base import Conditioner


class Composite(Conditioner):
    """Conditioners side by side: tokens one after the other, vectors added, maps stacked.

    Each part keeps its own drop rate, so that a model learns to do without any of them. The order of the parts is that of
    their tokens and of their maps.

    Args:
        parts: The conditioners, by names that stand in options and checkpoints; those of a list are called 0, 1, ...
        width: Width of the tokens of all parts that give tokens; None: no part does.
        vector_width: Width of the vectors of all parts that give vectors; None: no part does.
        concat_channels: Channels of the maps of all parts together; 0: no part gives a map.

    Raises:
        ValueError: Where there is no part.
    """

    def __init__(
        self,
        parts: Mapping[str, Conditioner] | Sequence[Conditioner],
        *,
        width: int | None = None,
        vector_width: int | None = None,
        concat_channels: int = 0,
    ) -> None:
        super().__init__()
        named = dict(parts) if isinstance(parts, Mapping) else {str(place): part for place, part in enumerate(parts)}
        if not named:
            raise ValueError("conditioner.parts is empty; give at least one conditioner")
        self.parts = nn.ModuleDict(named)
        self.width = width
        self.vector_width = vector_width
        self.concat_channels = concat_channels
        self.inputs = tuple(dict.fromkeys(name for part in named.values() for name in part.inputs))
        self.learns_from = tuple(dict.fromkeys(name for part in named.values() for name in part.learns_from))
        self.caption_caches = tuple(dict.fromkeys(name for part in named.values() for name in part.caption_caches))
        self.ranges = tuple(dict.fromkeys(one for part in named.values() for one in part.ranges))

    def prepare(self, samples: Iterable[Fields] | None) -> None:
        """Let each part learn what it has to learn from the same samples."""
        parts = self._parts()
        learning = sum(bool(part.learns_from) for part in parts)
        copies = iter(itertools.tee(samples, learning)) if samples is not None and learning else itertools.repeat(None)
        for part in parts:
            part.prepare(next(copies) if part.learns_from else None)

    def forward(self, fields: Fields) -> Condition:
        """Return the condition for B images, from the fields that `inputs` names."""
        return self._joined(lambda part: part(fields))

    def null(self, fields: Fields) -> Condition:
        """Return the condition that says nothing about the images, of the same shapes."""
        return self._joined(lambda part: part.null(fields))

    def with_dropout(self, fields: Fields) -> Condition:
        """Return the condition for training, in which some images have that of `null`."""
        return self._joined(lambda part: part.with_dropout(fields))

    def _parts(self) -> list[Conditioner]:
        return [part for part in self.parts.values() if isinstance(part, Conditioner)]

    def _joined(self, condition: Callable[[Conditioner], Condition]) -> Condition:
        found = [condition(part) for part in self._parts()]
        self._check(found)
        vectors = [part.vector for part in found if part.vector is not None]
        return Condition(
            tokens=_cat([part.tokens for part in found]),
            mask=_masks(found),
            vector=sum(vectors[1:], start=vectors[0]) if vectors else None,
            concat=_cat([part.concat for part in found]),
        )

    def _check(self, found: Sequence[Condition]) -> None:
        """Raise ValueError where parts give tokens or vectors of another width than was said, or other maps."""
        for name, part in zip(self.parts, found, strict=True):
            for option, given in (("width", part.tokens), ("vector_width", part.vector)):
                if given is not None and given.shape[-1] != getattr(self, option):
                    raise ValueError(
                        f"conditioner.{option} is {getattr(self, option)}, but the part {name!r} gives {given.shape[-1]}; "
                        "make all parts agree"
                    )
        channels = sum(part.concat.shape[1] for part in found if part.concat is not None)
        if channels != self.concat_channels:
            raise ValueError(
                f"conditioner.concat_channels is {self.concat_channels}, but the parts give maps of {channels} channels; "
                f"set conditioner.concat_channels={channels}"
            )


def _masks(conditions: Sequence[Condition]) -> Tensor | None:
    """The masks of all tokens behind one another; all tokens of a part without a mask count."""
    tokens = [condition.tokens for condition in conditions]
    masks = [condition.mask for condition in conditions]
    if all(mask is None for mask in masks):
        return None
    return _cat(
        [
            torch.ones(part.shape[:2], dtype=torch.bool, device=part.device)
            if part is not None and mask is None
            else mask
            for part, mask in zip(tokens, masks, strict=True)
        ]
    )


def _cat(parts: Sequence[Tensor | None]) -> Tensor | None:
    """Parts behind one another along the second dimension."""
    given = [part for part in parts if part is not None]
    return torch.cat(given, dim=1) if given else None
