"""Decoding of large latents in overlapping tiles, so that memory depends on the tile and not on the image."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ldm.autoencoder.base import Autoencoder
from ldm.batch import as_size
from ldm.options.rule import COUNT, Optional, Whole, check

TILE = Optional(COUNT, "each image at once")
"""The rule of a tile's height and width in pixels, as an option."""


class Tiles:
    """Overlapping tiles in which images are decoded, of a size in pixels; see `decode_tiled`.

        model.sample(fields, size=[512, 1024], tiles=Tiles(512, 64))

    Args:
        tile: Height and width of a tile in pixels; an image that fits into it is decoded at once.
        overlap: Least number of pixels by which neighbours overlap, less than `tile`; it is rounded up to whole elements of
            the latent.

    Raises:
        ValueError: If tile or overlap cannot be.
    """

    def __init__(self, tile: int, overlap: int) -> None:
        check("tile", tile, COUNT)
        check("tile_overlap", overlap, Whole(0, tile - 1))
        self.tile = tile
        self.overlap = overlap

    def check(self, autoencoder: Autoencoder) -> None:
        """Raise ValueError where an autoencoder cannot divide the tiles, or the overlap leaves nothing of them."""
        factor = autoencoder.downsampling_factor
        if self.tile % factor:
            raise ValueError(
                f"tile={self.tile} is no multiple of {factor}, the factor of this autoencoder; say "
                f"tile={-(-self.tile // factor) * factor}"
            )
        if self._overlap(factor) >= self.tile // factor:
            raise ValueError(
                f"tile_overlap={self.overlap} leaves nothing of tile={self.tile} with an autoencoder of factor {factor}; say "
                f"tile_overlap={self.tile - factor}, or less"
            )

    def decode(self, autoencoder: Autoencoder, raw: Tensor) -> Tensor:
        """Return the images `(B, 3, h*f, w*f)`, about in [-1, 1], of raw latents `(B, C, h, w)`.

        Raises:
            ValueError: See `check`.
        """
        self.check(autoencoder)
        factor = autoencoder.downsampling_factor
        return decode_tiled(autoencoder, raw, self.tile // factor, overlap=self._overlap(factor))

    def image(self, autoencoder: Autoencoder, latent: Tensor) -> Tensor:
        """Return the images of latents, as `Autoencoder.image` does: `(B, 3, h*f, w*f)` of `(B, C, h, w)`."""
        return self.decode(autoencoder, autoencoder.to_raw(latent)).float()

    def _overlap(self, factor: int) -> int:
        """Return the overlap in elements of the latent."""
        return -(-self.overlap // factor)


def decode_tiled(autoencoder: Autoencoder, raw: Tensor, tile: int | Sequence[int], *, overlap: int) -> Tensor:
    """Decode raw latents in overlapping tiles; where tiles overlap, the weight of each falls linearly towards its edge.

    The decoder sees no more than one tile at once. Its group norms and its attention then look at the tile instead of the
    whole image, and its convolutions at zeros beyond the edge of the tile: the images differ a little from those of one
    `decode`, in the seams and elsewhere, the less, the larger tile and overlap are. Latents that fit into one tile are
    decoded as they are.

    Args:
        autoencoder: The autoencoder.
        raw: Raw latents, `(B, C, h, w)`.
        tile: Height and width of a tile, in elements of the latent; one number for squares.
        overlap: Least number of elements, of rows or of columns, by which neighbours overlap; at least 0, less than the tile.

    Returns:
        Images, `(B, 3, h*f, w*f)`, about in [-1, 1].

    Raises:
        ValueError: If tile or overlap cannot be.

    References:
        Rombach et al., 2022, section 4.3.2, arXiv:2112.10752, for images larger than those of the training.
    """
    tile = as_size(tile)
    check("overlap", overlap, Whole(0, min(tile) - 1))
    factor = autoencoder.downsampling_factor
    rows, columns = (_spans(length, part, overlap) for length, part in zip(raw.shape[2:], tile, strict=True))
    if len(rows) == len(columns) == 1:
        return autoencoder.decode(raw)
    down, across = (_windows(spans, factor).to(raw.device) for spans in (rows, columns))
    image = torch.zeros(raw.shape[0], 3, down.shape[1], across.shape[1], device=raw.device)
    for row, weight_down in zip(rows, down, strict=True):
        for column, weight_across in zip(columns, across, strict=True):
            here = tuple(slice(part.start * factor, part.stop * factor) for part in (row, column))
            weight = weight_down[here[0], None] * weight_across[None, here[1]]
            image[:, :, here[0], here[1]] += weight * autoencoder.decode(raw[:, :, row, column]).float()
    return image


def _spans(length: int, part: int, overlap: int) -> list[slice]:
    """Return the fewest parts, evenly spread, that cover a length and overlap by at least so many elements."""
    if part >= length:
        return [slice(0, length)]
    gaps = -(-(length - part) // (part - overlap))
    starts = [round(number * (length - part) / gaps) for number in range(gaps + 1)]
    return [slice(start, start + part) for start in starts]


def _windows(spans: Sequence[slice], factor: int) -> Tensor:
    """Return the weight of each part at each pixel, `(parts, pixels)`; the weights at a pixel sum to 1.

    The weight of a part falls linearly over its overlap with a neighbour, and not towards the ends of the whole.
    """
    places = torch.arange(spans[-1].stop * factor) + 0.5
    windows = torch.zeros(len(spans), len(places), dtype=torch.float64)
    for number, span in enumerate(spans):
        start, stop = span.start * factor, span.stop * factor
        window = ((places > start) & (places < stop)).double()
        if number > 0 and (end := spans[number - 1].stop * factor) > start:
            window *= ((places - start) / (end - start)).clamp(0.0, 1.0)
        if number < len(spans) - 1 and (begin := spans[number + 1].start * factor) < stop:
            window *= ((stop - places) / (stop - begin)).clamp(0.0, 1.0)
        windows[number] = window
    return (windows / windows.sum(0)).float()
