"""The features of the papers' FID: Inception v3."""

from __future__ import annotations

import pickle
from pathlib import Path

import torch
from torch import Tensor

from ldm.pretrained.catalogue import INCEPTION_WEIGHTS
from ldm.pretrained.extractor import Extractor
from ldm.pretrained.precision import full_precision


class Inception(Extractor):
    """The Inception v3 of torch-fidelity, with the original FID weights and resizing: the FID of the papers.

    Args:
        weights: Local file of the weights (`weights-inception-2015-12-05-6726825d.pth`); None: the one in torch's cache, where
            torch-fidelity looks, too. Where there is none it is downloaded, and checked by its hash.

    Raises:
        ModuleNotFoundError: Where torch-fidelity is not installed.
        FileNotFoundError: Where the weights are missing, and cannot be downloaded.
        ValueError: Where the file holds anything else than weights.

    References:
        Heusel et al., 2017, arXiv:1706.08500.
    """

    name = "inception"
    num_features = 2048

    def __init__(self, *, weights: str | Path | None = None) -> None:
        super().__init__()
        if weights is not None and not Path(weights).is_file():
            raise FileNotFoundError(
                f"no Inception weights at {weights}; give the file {INCEPTION_WEIGHTS.target}, which `python -m ldm.fetch "
                "inception` brings"
            )
        try:
            from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
        except ImportError as error:
            raise ModuleNotFoundError(
                f"FID needs torch-fidelity, which cannot be imported ({error}); pip install -e '.[fid]', "
                "or choose metric=offline, which needs no download"
            ) from error
        self.signature = "inception-v3-compat-2048"
        file = _cached() if weights is None else Path(weights)
        _refuse_code(file)
        self.network = FeatureExtractorInceptionV3(
            "inception-v3-compat", ["2048"], feature_extractor_weights_path=str(file)
        )

    def forward(self, images: Tensor) -> Tensor:
        """Return the features `(B, 2048)` of images `(B, 3, H, W)` in [-1, 1], which are rounded to 8 bits first."""
        levels = images.float().add(1.0).mul(127.5).round().clamp(0, 255).byte()
        with full_precision(images.device):
            features: Tensor = self.network(levels)[0]
            return features

    def train(self, mode: bool = True) -> Inception:
        """Stay in evaluation mode, whatever `mode` is."""
        return super().train(False)


def _cached() -> Path:
    try:
        return INCEPTION_WEIGHTS.load()
    except OSError as error:
        raise FileNotFoundError(
            f"the Inception weights are not in torch's cache and could not be downloaded ({error}); bring them here with "
            "`python -m ldm.fetch inception`, give a local file, metric.fid.extractor.weights=FILE, or choose metric=offline"
        ) from error


def _refuse_code(file: Path) -> None:
    """Raise ValueError where a file holds anything else than tensors: torch-fidelity would run code that it holds."""
    try:
        torch.load(file, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        reason = str(error).partition("\n")[0] or "it is empty"
        raise ValueError(
            f"{file} does not hold weights alone ({reason}); give {INCEPTION_WEIGHTS.target} as "
            "torch-fidelity publishes it"
        ) from error
