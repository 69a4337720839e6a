"""The CLIP score: how well generated images fit their captions."""

from __future__ import annotations

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor

from ldm.batch import Fields, list_field
from ldm.metric.per_image import PerImageMetric
from ldm.pretrained.clip_score import CLIPScore
from ldm.pretrained.precision import full_precision


class CLIPSimilarity(PerImageMetric):
    """The mean cosine between CLIP's embeddings of an image and of the caption it was made for.

    It is the plain cosine, in [-1, 1], as in MLPerf's benchmark. Others scale it: 100 times it in torchmetrics, 2.5 times it in
    Hessel et al.; and scores of different CLIP models do not compare. What CLIP cuts away of a long caption is not looked at.

    Args:
        name: Name of a CLIP model on the hub, or a local folder.

    Raises:
        FileNotFoundError: Where there is no such model.

    References:
        Hessel et al., 2021, section 3, arXiv:2104.08718.
    """

    inputs = ("caption",)

    def __init__(self, name: str) -> None:
        super().__init__(["clip_score"])
        self.clip = CLIPScore(name, option="metric.clip_score.name")

    def measure(self, images: Tensor, fields: Fields) -> Mapping[str, Tensor]:
        """Return the cosine of each image, `(B,)`; see `PerImageMetric.measure`."""
        with full_precision(images.device):
            seen = self.clip.embed_images(images.float())
            texts = self.clip.embed_texts(list_field(fields, "caption"), images.device)
        return {"clip_score": F.cosine_similarity(seen, texts)}
