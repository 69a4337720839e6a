"""The size and crop of an image as a condition."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch import Tensor

from ldm.batch import Condition, Fields, as_size, batch_size, tensor_field, whole_geometry
from ldm.conditioner.base import SingleConditioner, without
from ldm.nn.embedding import sinusoidal
from ldm.options.rule import Whole, check

NUMBERS = 6
"""The number of values in the field `geometry`."""


class SizeConditioner(SingleConditioner):
    """Sinusoidal features of the six numbers of `geometry`, as one vector.

    A model that knows how its training images were enlarged and cropped need not learn enlarged and cropped images: at
    sampling it is conditioned on the asked size, without a crop. Fields without `geometry` are such images of `size`.

    Args:
        size: Size of images about which nothing is known, in pixels: one number, or height and width.
        number_width: Features of each number, an even number.
        vector_width: Width of the vector, which is 6 x number_width.
        drop_rate: Fraction of the training images whose size is dropped, in [0, 1]; the vector is then zero.

    Raises:
        ValueError: Where the widths do not go together.

    References:
        Podell et al., 2023, section 2.2, arXiv:2307.01952.
    """

    inputs = ("geometry",)

    def __init__(
        self, size: int | Sequence[int], *, number_width: int = 256, vector_width: int = 1536, drop_rate: float = 0.0
    ) -> None:
        super().__init__(drop_rate=drop_rate)
        check("conditioner.number_width", number_width, Whole(2))
        if number_width % 2 or vector_width != NUMBERS * number_width:
            raise ValueError(
                f"conditioner.vector_width is {NUMBERS} times conditioner.number_width, an even number; got {vector_width} "
                f"and {number_width}"
            )
        self.size = as_size(size)
        self.number_width = number_width
        self.vector_width = vector_width

    def prepare(self, samples: Iterable[Fields] | None) -> None:
        """Do nothing: no weight and no word is learned before training."""

    def encode(self, fields: Fields, dropped: Tensor) -> Condition:
        """Return the condition of `geometry`, `(B, 6)`: a vector `(B, vector_width)`."""
        count = batch_size(fields)
        geometry = tensor_field(fields, "geometry") if "geometry" in fields else whole_geometry(self.size, count)
        numbers = geometry.to(self.place.device).flatten()
        vector = sinusoidal(numbers, self.number_width).view(count, self.vector_width)
        return Condition(vector=without(vector, dropped))
