"""The share of images that show the same as the images they are variations of, for data whose true drawings are known."""

from __future__ import annotations

from torch import Tensor

from ldm.batch import Fields, Size, tensor_field
from ldm.metric.caption import Templates, Truth, part_codes
from ldm.metric.per_image import PerImageMetric


class VariationAccuracy(PerImageMetric):
    """The share of images whose nearest drawing, by squared error over all drawings, is that of the image shown.

    It is measured whole and by part: `variation_accuracy` for all parts together, `variation_icon_accuracy` and so on.

    Args:
        truth: Gives all drawings.
    """

    inputs = ("image",)

    def __init__(self, truth: Truth) -> None:
        drawings = list(truth.drawings)
        parts = drawings[0]._fields
        super().__init__(["variation_accuracy", *(f"variation_{part}_accuracy" for part in parts)])
        self.codes = part_codes(drawings)
        self.templates = Templates(truth.images(drawings))

    @property
    def size(self) -> Size:
        """See `Metric.size`."""
        return self.templates.size

    def measure(self, images: Tensor, fields: Fields) -> dict[str, Tensor]:
        """Return 1 for images that are right and 0 for others, `(B,)`, whole and by part; see `PerImageMetric.measure`."""
        shown = tensor_field(fields, "image").to(images.device)
        self.codes = self.codes.to(images.device)
        right = self.codes[self.templates.nearest(images)] == self.codes[self.templates.nearest(shown)]
        return dict(zip(self.names, [right.all(1), *right.unbind(1)], strict=True))
