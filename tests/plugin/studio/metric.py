"""A metric that asks whether images have the colours of their captions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from PIL import ImageColor
from torch import Tensor
from torchmetrics import MeanMetric

from ldm.batch import Fields, list_field
from ldm.metric.base import ADVICE, GenerationMetric, check_finite


class ColourAccuracy(GenerationMetric):
    """The share of images that are coloured, on white, as their captions say.

    Args:
        colors: Name -> hex code; each caption holds one of the names as a word.
    """

    inputs = ("caption",)

    def __init__(self, colors: Mapping[str, str]) -> None:
        self.words = list(colors)
        codes = [ImageColor.getrgb(code) for code in colors.values()]
        self.directions = F.normalize(255.0 - torch.tensor(codes, dtype=torch.float32), dim=1)
        self.share = MeanMetric()

    @property
    def names(self) -> Sequence[str]:
        """Return the name of the one score."""
        return ["colour_accuracy"]

    @property
    def reference_name(self) -> None:
        """None: nothing is needed of real images."""
        return None

    def to(self, device: torch.device) -> None:
        """Move to a device."""
        self.directions = self.directions.to(device)
        self.share.to(device)

    def update_reference(self, images: Tensor) -> None:
        """Do nothing with real images."""

    def reference(self) -> dict[str, Tensor]:
        """Return no sums, since there are none."""
        return {}

    def set_reference(self, sums: dict[str, Tensor]) -> None:
        """Do nothing: there are no sums."""

    def update(self, images: Tensor, fields: Fields) -> None:
        """Add generated images `(B, 3, H, W)` in [-1, 1] and the fields, with captions, that they were made for."""
        check_finite(images, "generated images", advice=ADVICE)
        towards = F.normalize(1.0 - images.float().mean((2, 3)), dim=1)  # from white to the mean colour
        found = (towards @ self.directions.T).argmax(1).tolist()
        for caption, index in zip(list_field(fields, "caption"), found, strict=True):
            self.share.update(float(self.words[index] in caption.split()))

    def compute(self) -> dict[str, float]:
        """Return the share over all images of all ranks since the last call."""
        value = float(self.share.compute())
        self.share.reset()
        return {"colour_accuracy": value}
