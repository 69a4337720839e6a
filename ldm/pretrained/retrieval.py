"""Frozen networks whose embeddings say which images are alike, for the search of nearest neighbours."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ldm.files.digest import weights_hash
from ldm.options.rule import Whole, check
from ldm.pretrained.clip_score import CLIPScore
from ldm.pretrained.efficientnet import EfficientNetLite0


class RetrievalEncoder(ABC):
    """A frozen network that embeds images; alike are those whose embeddings have a large cosine.

    Attributes:
        size: Side in pixels of the images that it takes.
        signature: A name for network, weights and preprocessing together: equal ones give comparable embeddings.
    """

    size: int
    signature: str

    @abstractmethod
    def embed_images(self, image: Tensor) -> Tensor:
        """Return the embeddings `(B, D)`, of length 1 and in float32, of images `(B, 3, size, size)` in [-1, 1]."""


class TextRetrievalEncoder(RetrievalEncoder):
    """A frozen network that embeds texts into the same space as images."""

    @abstractmethod
    def embed_texts(self, texts: Sequence[str], device: torch.device | str) -> Tensor:
        """Return the embeddings `(N, D)`, of length 1 and in float32, of texts."""


class CLIPRetrieval(TextRetrievalEncoder):
    """Both towers of a CLIP: images, and texts that describe them, have embeddings that are alike.

    Args:
        name: Name of the model on the hub, or a local folder.

    Raises:
        FileNotFoundError: Where there is no such model.

    References:
        Radford et al., 2021, arXiv:2103.00020; as neighbours of images: Blattmann et al., 2022, section 3, arXiv:2204.11824;
        of texts: Rombach et al., 2022, arXiv:2207.13038.
    """

    def __init__(self, name: str = "openai/clip-vit-large-patch14") -> None:
        self.clip = CLIPScore(name, option="encoder.name")
        self.size = self.clip.size
        self.signature = f"clip-{self.size}-{weights_hash(self.clip.network.state_dict().items())}"

    @torch.no_grad()
    def embed_images(self, image: Tensor) -> Tensor:
        """Return the embeddings `(B, D)`, of length 1 and in float32, of images `(B, 3, size, size)` in [-1, 1]."""
        return F.normalize(self.clip.embed_images(image).float())

    @torch.no_grad()
    def embed_texts(self, texts: Sequence[str], device: torch.device | str) -> Tensor:
        """Return the embeddings `(N, D)`, of length 1 and in float32, of texts."""
        return F.normalize(self.clip.embed_texts(texts, device).float())


class EfficientNetRetrieval(RetrievalEncoder):
    """ImageNet features of EfficientNet-Lite0, for machines that cannot download weights; it knows no texts.

    Args:
        size: Side in pixels to which images are resized first; 32 or more.

    References:
        Tan & Le, 2019, arXiv:1905.11946.
    """

    def __init__(self, size: int = 64) -> None:
        check("encoder.size", size, Whole(32))
        self.network = EfficientNetLite0(size=size)
        self.size = size
        self.signature = self.network.signature

    @torch.no_grad()
    def embed_images(self, image: Tensor) -> Tensor:
        """Return the embeddings `(B, 1280)`, of length 1 and in float32, of images `(B, 3, size, size)` in [-1, 1]."""
        return F.normalize(self.network.to(image.device)(image))
