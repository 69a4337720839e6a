"""A metric that asks whether images have the colours of their captions."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from PIL import ImageColor
from torch import Tensor

from ldm.batch import Fields, list_field
from ldm.metric.per_image import PerImageMetric


class ColourAccuracy(PerImageMetric):
    """The share of images that are coloured, on white, as their captions say.

    Args:
        colors: Name -> hex code; each caption holds one of the names as a word.
    """

    inputs = ("caption",)

    def __init__(self, colors: Mapping[str, str]) -> None:
        super().__init__(["colour_accuracy"])
        self.words = list(colors)
        codes = [ImageColor.getrgb(code) for code in colors.values()]
        self.directions = F.normalize(255.0 - torch.tensor(codes, dtype=torch.float32), dim=1)

    def measure(self, images: Tensor, fields: Fields) -> dict[str, Tensor]:
        """Return 1 for images that are right and 0 for others, `(B,)`; see `PerImageMetric.measure`."""
        towards = F.normalize(1.0 - images.mean((2, 3)), dim=1)  # from white to the mean colour
        found = (towards @ self.directions.to(images).T).argmax(1).tolist()
        pairs = zip(list_field(fields, "caption"), found, strict=True)
        return {
            "colour_accuracy": torch.tensor([float(self.words[index] in caption.split()) for caption, index in pairs])
        }
