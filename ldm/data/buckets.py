"""Buckets: sizes of about the images' own aspect ratios, so that images of one batch are of one shape."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from ldm.batch import Size, as_size
from ldm.data.shards.dataset_index import DatasetIndex
from ldm.options.rule import COUNT, Real, check


class Buckets:
    """A size for each sample, so that images of one batch are of one shape.

    Args:
        sizes: All sizes, in pixels.
        chosen: The place in `sizes` of each sample's size, `(N,)`.
    """

    def __init__(self, sizes: Sequence[Size], chosen: np.ndarray) -> None:
        self.sizes = list(sizes)
        self.chosen = chosen

    def size_of(self, number: int) -> Size:
        """Return the size of a sample, by its number."""
        return self.sizes[int(self.chosen[number])]

    def check_used(self, check: Callable[[Size], None]) -> None:
        """Call a check of an image size, which may raise ValueError, for all sizes that samples have."""
        for number in np.unique(self.chosen):
            try:
                check(self.sizes[int(number)])
            except ValueError as error:
                raise ValueError(
                    f"a bucket: {error}; that is, set data.buckets.multiple to the number that divides them all"
                ) from error

    @staticmethod
    def check(size: int | Sequence[int], *, multiple: int, max_ratio: float) -> None:
        """Raise ValueError where there are no such buckets; see `choose`."""
        check("data.buckets.multiple", multiple, COUNT)
        check("data.buckets.max_ratio", max_ratio, Real(1.0))
        size = as_size(size)
        if size.height % multiple or size.width % multiple:
            raise ValueError(
                f"buckets need a size that is a multiple of `multiple`; got size={size}, multiple={multiple}"
            )

    @classmethod
    def choose(cls, index: DatasetIndex, size: int | Sequence[int], *, multiple: int, max_ratio: float) -> Buckets:
        """Return for each sample the size of the nearest aspect ratio among those with about as many pixels.

        Args:
            index: The samples.
            size: An image size; all sizes have about as many pixels.
            multiple: Heights and widths are multiples of this.
            max_ratio: The largest ratio of the longer side to the shorter one.
        """
        cls.check(size, multiple=multiple, max_ratio=max_ratio)
        pixels = math.prod(as_size(size))
        heights = range(multiple, math.isqrt(pixels) + 1, multiple)
        wide = [Size(height, round(pixels / height / multiple) * multiple) for height in heights]
        wide = [size for size in wide if size.width <= max_ratio * size.height]
        sizes = sorted({*wide, *(Size(*reversed(size)) for size in wide)}, key=lambda size: size.width / size.height)
        ratios = np.log([size.width / size.height for size in sizes])
        nearest = np.searchsorted((ratios[1:] + ratios[:-1]) / 2, np.log(index.column("ratio")))
        return cls(sizes, nearest.astype(np.uint8))

    def untrained(self, batch: int) -> str | None:
        """Return a text that says which images are never seen, as their buckets hold fewer than a batch; None: all are seen.

        Args:
            batch: Number of images in an optimiser step.
        """
        counts = np.bincount(self.chosen, minlength=len(self.sizes)).tolist()
        small = {size: count for size, count in zip(self.sizes, counts, strict=True) if 0 < count < batch}
        if not small:
            return None
        named = ", ".join(f"{size.height} x {size.width} ({count})" for size, count in small.items())
        return (
            f"{sum(small.values())} of {len(self.chosen)} training images are in buckets with fewer images than the {batch} of "
            f"a step, and are never trained on: {named}; use a smaller batch size, or fewer buckets by a larger "
            "data.buckets.multiple or a smaller data.buckets.max_ratio"
        )
