"""The image or latent of one sample, and how it was cut."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ldm.data.cached_text import CachedText
from ldm.data.fields.placement import Placement


class Cut(NamedTuple):
    """An image or latent of one sample, and how it was cut.

    Attributes:
        fields: Its fields: `image`, as `(H, W, 3)` uint8, or `moments`; and `geometry`, `(6,)`.
        placement: The resizing, cropping and flipping of the original.
        text: The tokens of the sample's captions that lie beside a latent; None: there are none, or none are read.
    """

    fields: dict[str, Any]
    placement: Placement
    text: CachedText | None = None

    @property
    def levels(self) -> NDArray[np.uint8]:
        """The image, `(H, W, 3)` uint8."""
        levels: NDArray[np.uint8] = self.fields["image"]
        return levels
