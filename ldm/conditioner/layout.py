"""The boxes of the objects in an image as a condition: layout to image."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from ldm.batch import Condition, Fields
from ldm.conditioner.base import SingleConditioner, on_device, without
from ldm.conditioner.class_names import ClassNames
from ldm.conditioner.transformer import TransformerEncoder
from ldm.conditioner.value_range import ValueRange
from ldm.options.rule import COUNT, Whole, check

OBJECT_TOKENS = 3
"""Tokens of an object: its class, its top left corner, its bottom right corner."""

CROP_TOKENS = 2
"""Tokens of the part of the original that the image shows: its top left and bottom right corners."""

EMBEDDING_STD = 0.5**0.5
"""Of the embeddings of tokens and of places in the sequence at the start, whose sum so has the variance 1. What a token says is
then as large as what the first layer adds to it, and boxes are learned in fewer steps than with the small embeddings of texts."""


class LayoutConditioner(SingleConditioner):
    """The classes and boxes of objects as a sequence of tokens through a transformer that is trained with the U-Net.

    An object is three tokens: the number of its class, then its top left and bottom right corner. A corner (x, y) is the place
    of the nearest point on a grid of S x S points, round(y (S - 1)) S + round(x (S - 1)), where S is the square root of
    `vocabulary`, rounded down. Three tokens `vocabulary - 1` stand where there is no object. The last two tokens are the corners
    of the part of the original that the image shows, which `geometry` gives; without it, all is shown. Boxes are in [0, 1] of
    the image itself.

    Args:
        width: Width of the tokens.
        depth: Number of layers.
        heads: Number of attention heads.
        head_width: Channels of each head.
        max_boxes: At most so many objects are used; of more, the first ones.
        vocabulary: Number of different tokens: classes and corners share them, since their places in the sequence differ.
        drop_rate: Fraction of the training images whose layout is dropped, in [0, 1]; all their tokens are `vocabulary - 1`.
        names: The names of the classes, in the order of their numbers, or a text file of them, one a line; None: there are none.

    References:
        Rombach et al., 2022, section 4.3.1 and appendix E.2.1, arXiv:2112.10752; Jahn et al., 2021, section 3,
        arXiv:2105.06458.
    """

    inputs = ("boxes", "geometry")

    def __init__(
        self,
        *,
        width: int = 512,
        depth: int = 16,
        heads: int = 8,
        head_width: int = 64,
        max_boxes: int = 30,
        vocabulary: int = 8192,
        drop_rate: float = 0.0,
        names: str | Sequence[str] | None = None,
    ) -> None:
        super().__init__(drop_rate=drop_rate)
        for name, count in (("width", width), ("heads", heads), ("head_width", head_width), ("max_boxes", max_boxes)):
            check(f"conditioner.{name}", count, COUNT)
        check("conditioner.depth", depth, Whole(0))
        check("conditioner.vocabulary", vocabulary, Whole(4))  # the corners of the image, at least
        self.width = width
        self.max_boxes = max_boxes
        self.none = vocabulary - 1
        advice = "mend the class (-1 is no box), or set a larger conditioner.vocabulary"
        self.ranges = (ValueRange("boxes", -1, self.none - 1, f"conditioner.vocabulary={vocabulary}", advice, entry=0),)
        self.class_names = ClassNames(names, field="boxes", count=self.none, exact=False)
        self.grid = math.isqrt(vocabulary)
        length = OBJECT_TOKENS * max_boxes + CROP_TOKENS
        self.network = TransformerEncoder(
            vocabulary, length, width=width, depth=depth, heads=heads, head_width=head_width, std=EMBEDDING_STD
        )

    def prepare(self, samples: Iterable[Fields] | None) -> None:
        """Read the names of the classes, if they are in a file; the transformer is learned in training."""
        self.class_names.load()

    def encode(self, fields: Fields, dropped: Tensor) -> Condition:
        """Return the condition of `boxes`, `(B, N, 5)`: tokens `(B, 3 max_boxes + 2, width)`."""
        return Condition(tokens=self.network(without(self.ids(fields), dropped, self.none), None))

    def ids(self, fields: Fields) -> Tensor:
        """Return the token ids `(B, 3 max_boxes + 2)` of `boxes`, `(B, N, 5)`, and of `geometry`, `(B, 6)`."""
        boxes = self.tensor(fields, "boxes").float()
        if boxes.ndim != 3 or boxes.shape[-1] != 5:
            raise ValueError(
                f"the field boxes is class, x0, y0, x1, y1 of each object, (B, N, 5); got {tuple(boxes.shape)}"
            )
        first = (boxes[..., 0] < 0).long().argsort(dim=1, stable=True)[:, : self.max_boxes]  # objects before padding
        boxes = boxes.gather(1, first[..., None].expand(-1, -1, 5))
        classes = boxes[..., 0].long()
        objects = torch.stack([classes, self._corner(boxes[..., 1:3]), self._corner(boxes[..., 3:5])], dim=-1)
        objects = torch.where(classes[..., None] < 0, self.none, objects).flatten(1)
        missing = OBJECT_TOKENS * self.max_boxes - objects.shape[1]
        padding = objects.new_full((len(objects), missing), self.none)
        return torch.cat([objects, padding, self._crop(fields, len(objects))], dim=1)

    def _corner(self, xy: Tensor) -> Tensor:
        """Return the token ids `(...,)` of points `(..., 2)`, x and y in [0, 1]."""
        x, y = (xy.clamp(0.0, 1.0) * (self.grid - 1)).round().long().unbind(-1)
        return y * self.grid + x

    def _crop(self, fields: Fields, count: int) -> Tensor:
        """Return the token ids `(B, 2)` of the part of the original that is shown; where nobody knows, of all of it."""
        if "geometry" not in fields:
            corners = on_device(torch.tensor([[0.0, 0.0], [1.0, 1.0]]), self.place.device)
            return self._corner(corners.expand(count, -1, -1))
        height, width, top, left, rows, columns = self.tensor(fields, "geometry").double().unbind(1)
        scale = torch.maximum(rows / height, columns / width)  # the original was resized to cover the image
        start = torch.stack([left / (width * scale), top / (height * scale)], dim=-1)
        extent = torch.stack([columns / (width * scale), rows / (height * scale)], dim=-1)
        return self._corner(torch.stack([start, start + extent], dim=1))
