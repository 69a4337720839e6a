"""The features of the papers' FID: Inception v3."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from ldm.pretrained.extractor import Extractor
from ldm.pretrained.precision import full_precision


class Inception(Extractor):
    """The Inception v3 of torch-fidelity, with the original FID weights and resizing: the FID of the papers.

    Args:
        weights: Local file of the weights (`weights-inception-2015-12-05-6726825d.pth`); None: torch-fidelity downloads them.

    Raises:
        ModuleNotFoundError: Where torch-fidelity is not installed.
        FileNotFoundError: Where the weights are missing.

    References:
        Heusel et al., 2017, arXiv:1706.08500.
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
        """Return the features `(B, 2048)` of images `(B, 3, H, W)` in [-1, 1], which are rounded to 8 bits first."""
        levels = images.float().add(1.0).mul(127.5).round().clamp(0, 255).byte()
        with full_precision(images.device):
            features: Tensor = self.network(levels)[0]
            return features

    def train(self, mode: bool = True) -> Inception:
        """Stay in evaluation mode, whatever `mode` is."""
        return super().train(False)
