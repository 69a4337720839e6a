"""The base class of metrics of generated images."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from ldm.batch import Fields

ADVICE = (
    "the model that makes them has diverged: go on from an earlier checkpoint, or train anew, with a lower learning rate "
    "(optimizer.lr) or a smaller trainer.gradient_clip_val; or sample with less guidance (guidance.scale)"
)
"""Advice where generated images are not finite."""


class GenerationMetric(ABC):
    """The base class of metrics: they collect generated images on all ranks and give named numbers, the same on all ranks.

    Where it compares with real images, it keeps sums over them that can be stored and brought back. It computes in float32
    or float64, whatever the precision of training. Images that are not finite are refused with a ValueError.
    """

    inputs: tuple[str, ...] = ()
    """Names of the fields that `update` reads."""

    @property
    @abstractmethod
    def names(self) -> Sequence[str]:
        """Names of the numbers that `compute` gives."""

    @property
    def least_images(self) -> int:
        """The fewest images, over all ranks, that it gives numbers for: of those generated, and of real ones if it needs any."""
        return 1

    @property
    def wanted_images(self) -> int:
        """The fewest images, over all ranks, of which its numbers may be compared with those of other sets of images."""
        return self.least_images

    @property
    @abstractmethod
    def reference_name(self) -> str | None:
        """A name for the sums over real images (extractor and its settings); None: no real images are needed."""

    @abstractmethod
    def to(self, device: torch.device) -> None:
        """Move to a device."""

    @abstractmethod
    def update_reference(self, images: Tensor) -> None:
        """Add real images `(B, 3, H, W)` in [-1, 1]."""

    @abstractmethod
    def reference(self) -> dict[str, Tensor]:
        """Return the sums over the real images of this rank; those of several ranks may be added."""

    @abstractmethod
    def set_reference(self, sums: dict[str, Tensor]) -> None:
        """Use these sums over real images: all of them on one rank, zeros on the others."""

    @abstractmethod
    def update(self, images: Tensor, fields: Fields) -> None:
        """Add generated images `(B, 3, H, W)` in [-1, 1] and the fields that they were made for."""

    @abstractmethod
    def compute(self) -> dict[str, float]:
        """Return name -> number over all images of all ranks since the last call. Every rank must call it."""


def check_finite(values: Tensor, of: str, *, advice: str) -> None:
    """Raise ValueError where numbers of a batch, `(B, ...)`, are not finite.

    Args:
        values: Images or their features.
        of: What they are, for the message.
        advice: What to do about it.
    """
    wrong = int((~values.flatten(1).isfinite()).any(1).sum())
    if wrong:
        raise ValueError(f"{wrong} of {len(values)} {of} hold numbers that are not finite (nan or inf); {advice}")
