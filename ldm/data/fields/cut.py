"""The image or latent of one sample, and how it was cut."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ldm.data.fields.placement import Placement


class Cut(NamedTuple):
    """An image or latent of one sample, and how it was cut.

    Attributes:
        fields: Its fields: `image`, as `(H, W, 3)` uint8, or `moments`; `geometry`, `(6,)`; and what else a latent holds.
        placement: How the original was resized, cropped and flipped.
    """

    fields: dict[str, Any]
    placement: Placement

    @property
    def levels(self) -> NDArray[np.uint8]:
        """The image, `(H, W, 3)` uint8."""
        levels: NDArray[np.uint8] = self.fields["image"]
        return levels
