"""Features of whole images by vision transformers of the hub: DINOv2's, and CLIP's embeddings."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from ldm.files.digest import weights_hash
from ldm.pretrained.embedding import ImageEmbedder
from ldm.pretrained.extractor import Extractor


class VisionFeatures(Extractor):
    """The base class of extractors that are vision transformers of Hugging Face.

    Args:
        name: Name of the model on the hub, or a local folder.
        size: Side in pixels to which images are resized first.
        option: Name of the group of options by which a user gives both, for errors.

    Raises:
        FileNotFoundError: Where there is no such model.
        ValueError: Where it is of another kind.
    """

    def __init__(self, name: str, *, size: int, option: str) -> None:
        super().__init__()
        self.embedder = ImageEmbedder(name, size=size, option=option)
        self.embedder.load()
        assert self.embedder.network is not None
        config = self.embedder.network.config
        mistake = self.mistake(config, size)
        if mistake:
            raise ValueError(f"{option}.name={name} {mistake}")
        self.name = self.label(config)
        self.num_features = self.width(config)
        state = self.embedder.network.state_dict()
        colours = [[float(value) for value in values] for values in self.embedder.statistics]
        self.signature = f"{self.name}-{size}-{weights_hash(state.items(), str(colours))}"

    @abstractmethod
    def mistake(self, config: Any, size: int) -> str:
        """Describe what is wrong with a network of this config, as the end of a sentence; "" where nothing is wrong."""

    @abstractmethod
    def label(self, config: Any) -> str:
        """Return the name of the extractor: see `Extractor.name`."""

    @abstractmethod
    def width(self, config: Any) -> int:
        """Return the length of a feature vector."""


class DINOv2Features(VisionFeatures):
    """DINOv2's feature of a whole image, the class token behind the last norm, on which the FD-DINOv2 is computed.

    It is called `dinov2` for ViT-L/14, the paper's, otherwise with the width of the network behind it.

    Args:
        name: Name of the model on the hub, or a local folder.
        size: Side in pixels to which images are resized first, bicubic and smoothed.

    Raises:
        FileNotFoundError: Where there is no such model.
        ValueError: Where it is no DINOv2.

    References:
        Stein et al., 2023, section 4, arXiv:2306.04675; Oquab et al., 2023, arXiv:2304.07193.
    """

    def __init__(self, name: str = "facebook/dinov2-large", *, size: int = 224) -> None:
        super().__init__(name, size=size, option="metric.frechet_dinov2.extractor")

    def mistake(self, config: Any, size: int) -> str:
        """See `VisionFeatures.mistake`."""
        if config.model_type != "dinov2":
            return f"is a {config.model_type}, no DINOv2; give a DINOv2, like facebook/dinov2-large"
        return (
            ""
            if size % config.patch_size == 0
            else f"wants a size that is a multiple of {config.patch_size}, got {size}"
        )

    def label(self, config: Any) -> str:
        """See `VisionFeatures.label`."""
        return "dinov2" if config.hidden_size == 1024 else f"dinov2_{config.hidden_size}"

    def width(self, config: Any) -> int:
        """See `VisionFeatures.width`."""
        return int(config.hidden_size)

    def forward(self, images: Tensor) -> Tensor:
        """Return the features `(B, num_features)` of images `(B, 3, H, W)` in [-1, 1]."""
        features: Tensor = self.embedder(images)[:, 0]
        return features


class CLIPFeatures(VisionFeatures):
    """CLIP's embedding of an image, of length 1, on which the CMMD is computed.

    It is called `clip_l_336` for ViT-L/14 of 336 pixels, the paper's, otherwise `clip` with the side of its images behind it.

    Args:
        name: Name of the model on the hub, or a local folder.
        size: Side in pixels to which images are resized first, bicubic and smoothed: the network's own.

    Raises:
        FileNotFoundError: Where there is no such model.
        ValueError: Where it is no CLIP, or of another size.

    References:
        Jayasumana et al., 2024, section 4, arXiv:2401.09603; Radford et al., 2021, arXiv:2103.00020.
    """

    def __init__(self, name: str = "openai/clip-vit-large-patch14-336", *, size: int = 336) -> None:
        super().__init__(name, size=size, option="metric.cmmd.extractor")

    def mistake(self, config: Any, size: int) -> str:
        """See `VisionFeatures.mistake`."""
        if config.model_type != "clip_vision_model":
            return f"is a {config.model_type}, no CLIP; give a CLIP, like openai/clip-vit-large-patch14-336"
        return "" if size == config.image_size else f"takes images of {config.image_size} pixels, got size={size}"

    def label(self, config: Any) -> str:
        """See `VisionFeatures.label`."""
        large = (config.hidden_size, config.patch_size) == (1024, 14)
        return f"clip_l_{config.image_size}" if large else f"clip_{config.image_size}"

    def width(self, config: Any) -> int:
        """See `VisionFeatures.width`."""
        return int(config.projection_dim)

    def forward(self, images: Tensor) -> Tensor:
        """Return the embeddings `(B, num_features)` of images `(B, 3, H, W)` in [-1, 1]."""
        return F.normalize(self.embedder(images)[:, 0], dim=1)
