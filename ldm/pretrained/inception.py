"""The features of the papers' FID: Inception v3."""

from __future__ import annotations

import pickle
from pathlib import Path

import torch
from torch import Tensor

from ldm.pretrained.catalogue import INCEPTION_WEIGHTS
from ldm.pretrained.extractor import ClassifyingExtractor, Extractor
from ldm.pretrained.inception_network import InceptionV3
from ldm.pretrained.precision import full_precision
from ldm.pretrained.resizing import InceptionResize, TensorFlowBilinear


class Inception(ClassifyingExtractor):
    """The Inception v3 of 2015-12-05, with the original FID weights: by default resized as for the FID of the papers.

    Args:
        weights: Local file of the weights (`weights-inception-2015-12-05-6726825d.pth` of torch-fidelity, or the same file of
            pytorch-fid); None: the one in torch's cache, where torch-fidelity looks, too. Where there is none it is downloaded,
            and checked by its hash.
        resize: The method of resizing to 299 x 299; None: that of TensorFlow 1 and torch-fidelity.

    Raises:
        FileNotFoundError: Where the weights are missing, and cannot be downloaded.
        ValueError: Where the file holds anything else than these weights.

    References:
        Heusel et al., 2017, arXiv:1706.08500.
    """

    name = "inception"
    num_features = 2048

    def __init__(self, *, weights: str | Path | None = None, resize: InceptionResize | None = None) -> None:
        super().__init__()
        if weights is not None and not Path(weights).is_file():
            raise FileNotFoundError(
                f"no Inception weights at {weights}; give the file {INCEPTION_WEIGHTS.target}, which `python -m ldm.fetch "
                "inception` brings"
            )
        self.resize = TensorFlowBilinear() if resize is None else resize
        self.signature = f"inception-2015-12-05-{self.resize.name}"
        self.network = InceptionV3()
        _load(self.network, _cached() if weights is None else Path(weights))
        self.network.eval().requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        """Return the features `(B, 2048)` of images `(B, 3, H, W)` in [-1, 1]."""
        with full_precision(images.device):
            features: Tensor = self.network(self.resize(self.levels(images)))
            return features

    def class_logits(self, features: Tensor) -> Tensor:
        """Return the logits `(B, 1008)`, without the bias of classes, as in the Inception score of the papers."""
        with full_precision(features.device):
            return features @ self.network.fc.weight.T


class SpatialInception(Extractor):
    """The features of sFID: of 17 x 17 places of the same network, so that the arrangement in an image counts.

    Args:
        weights: See `Inception`.
        resize: See `Inception`.

    Raises:
        FileNotFoundError: See `Inception`.
        ValueError: See `Inception`.

    References:
        Nash et al., 2021, section 5, arXiv:2103.03841; the first seven channels, as in ADM's evaluation (Dhariwal & Nichol,
        2021, arXiv:2105.05233).
    """

    name = "inception_spatial"
    num_features = 17 * 17 * 7
    statistics_names = ("mu_s", "sigma_s")

    def __init__(self, *, weights: str | Path | None = None, resize: InceptionResize | None = None) -> None:
        super().__init__()
        self.inception = Inception(weights=weights, resize=resize)
        self.signature = f"{self.inception.signature}-spatial"

    def forward(self, images: Tensor) -> Tensor:
        """Return the features `(B, 2023)` of images `(B, 3, H, W)` in [-1, 1]: of each place, row by row, seven numbers."""
        with full_precision(images.device):
            maps = self.inception.network.maps(self.inception.resize(self.levels(images)))
            return maps[:, :7].permute(0, 2, 3, 1).flatten(1)


def _cached() -> Path:
    try:
        return INCEPTION_WEIGHTS.load()
    except OSError as error:
        raise FileNotFoundError(
            f"Inception {INCEPTION_WEIGHTS.needed(error)}; bring it there with `python -m ldm.fetch inception`, give a local "
            "file to the metric, as in metric.fid.extractor.weights=FILE, or choose metric=offline"
        ) from error


def _load(network: InceptionV3, file: Path) -> None:
    """Read the weights; raise ValueError where a file holds anything else, code among it."""
    try:
        network.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))
    except (pickle.UnpicklingError, RuntimeError, EOFError, TypeError, AttributeError) as error:
        reason = str(error).partition("\n")[0] or "it is empty"
        raise ValueError(
            f"{file} does not hold the weights of the Inception network alone ({reason}); give {INCEPTION_WEIGHTS.target} as "
            "torch-fidelity publishes it"
        ) from error
