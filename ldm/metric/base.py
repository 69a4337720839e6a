"""The base class of metrics of generated images."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

ADVICE = (
    "the model that makes them has diverged: go on from an earlier checkpoint, or train anew, with a lower learning rate "
    "(stage.diffusion.optimizer.lr) or a smaller stage.diffusion.trainer.gradient_clip_val; or sample with less guidance "
    "(guidance.scale)"
)
"""The advice of an error where generated images are not finite."""


class GenerationMetric(ABC):
    """Turn generated images, of which each rank adds a part, into named numbers, the same on all ranks.

    A metric that compares with real images keeps sums over them that can be stored and brought back. It computes in float32
    or float64, whatever the precision of training. Images that are not finite are refused with a ValueError.
    """

    @property
    @abstractmethod
    def names(self) -> Sequence[str]:
        """Return the names of the numbers that `compute` gives."""

    @property
    def least_images(self) -> int:
        """Return the fewest images, over all ranks, from which it can compute: generated ones, and real ones if it needs any."""
        return 1

    @property
    @abstractmethod
    def reference_name(self) -> str | None:
        """Return a name for the sums over real images (extractor and its settings); None: it needs no real images."""

    @abstractmethod
    def to(self, device: torch.device) -> None:
        """Move networks and sums to a device."""

    @abstractmethod
    def refer(self, images: Tensor) -> None:
        """Add real images `(B, 3, H, W)` in [-1, 1]."""

    @abstractmethod
    def reference(self) -> dict[str, Tensor]:
        """Return the sums over the real images of this rank, by name; those of several ranks may be added."""

    @abstractmethod
    def set_reference(self, sums: dict[str, Tensor]) -> None:
        """Use these sums over real images, which are whole on one rank and zero on the others."""

    @abstractmethod
    def update(self, images: Tensor, captions: Sequence[str]) -> None:
        """Add generated images.

        Args:
            images: `(B, 3, H, W)` in [-1, 1].
            captions: The captions that they were made for, one for each image.

        Raises:
            ValueError: Where an image is not finite.
        """

    @abstractmethod
    def compute(self) -> dict[str, float]:
        """Return a number for each name, over the images of all ranks since the last call. Every rank must call it."""


def check_finite(values: Tensor, of: str, *, advice: str) -> None:
    """Raise an error where numbers of a batch are not finite.

    Args:
        values: Images or their features, `(B, ...)`.
        of: What the values are, for the message.
        advice: What to do about it, for the message.

    Raises:
        ValueError: Where a value is NaN or infinite.
    """
    wrong = int((~values.flatten(1).isfinite()).any(1).sum())
    if wrong:
        raise ValueError(f"{wrong} of {len(values)} {of} hold numbers that are not finite (nan or inf); {advice}")
