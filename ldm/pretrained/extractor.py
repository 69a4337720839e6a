"""The base class of networks that turn images into the features whose distributions are compared."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import final

from torch import Tensor, nn

from ldm.files.picture import to_levels


class Extractor(nn.Module, ABC):
    """A frozen network that turns an image into a vector of features.

    Attributes:
        name: Name of the network, like "efficientnet", which is a part of the names of scores: "frechet_efficientnet".
        signature: A name for network, weights and preprocessing together: extractors with the same one give the same features.
        num_features: Length of the vector.
        statistics_names: Names of the mean and of the covariance of its features in .npz files of others.
        rounds: Whether images are rounded to 8 bits first.
    """

    name: str
    signature: str
    num_features: int
    statistics_names: tuple[str, str] = ("mu", "sigma")
    rounds: bool = True

    @abstractmethod
    def forward(self, images: Tensor) -> Tensor:
        """Return the features of images, computed in float32, also under autocast.

        Args:
            images: `(B, 3, H, W)` in [-1, 1].

        Returns:
            Features `(B, num_features)`.
        """

    @final
    def train(self, mode: bool = True) -> Extractor:
        """Stay in evaluation mode, whatever `mode` is."""
        return super().train(False)

    def levels(self, images: Tensor) -> Tensor:
        """Return images as levels from 0 to 255: whole ones in uint8, or where nothing is rounded float32."""
        images = images.float()
        return to_levels(images) if self.rounds else images.add(1.0).mul(127.5)


class ClassifyingExtractor(Extractor):
    """An extractor whose network also classifies the images, from the same features."""

    @abstractmethod
    def class_logits(self, features: Tensor) -> Tensor:
        """Return the logits of classes.

        Args:
            features: `(B, num_features)`, as `forward` gives them.

        Returns:
            Logits `(B, K)` of K classes.
        """
