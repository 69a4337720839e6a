"""Features of images from a frozen vision transformer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, ImageProcessingMixin

from ldm.files.digest import weights_hash
from ldm.options.rule import COUNT, Optional, check
from ldm.pretrained.interpolation import interpolate
from ldm.pretrained.loading import WEIGHTS, loading

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def standardized(image: Tensor, size: int, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Resize and standardize images as networks of Hugging Face expect them.

    Args:
        image: Images `(B, 3, H, W)` in [-1, 1].
        size: Side in pixels to which they are resized.
        mean: Mean of each colour, in [0, 1], over the images that the network was trained on.
        std: Standard deviation of each colour over the same images.

    Returns:
        Images `(B, 3, size, size)`, whose colours have about mean 0 and standard deviation 1.
    """
    image = interpolate(image, (size, size), "bicubic").clamp(-1, 1)
    centre, spread = (
        torch.tensor(part, dtype=image.dtype).to(image.device, non_blocking=True)[:, None, None] for part in (mean, std)
    )
    return (0.5 * (image + 1.0) - centre) / spread


def colour_statistics(name: str, *, local: bool = False) -> tuple[Sequence[float], Sequence[float]]:
    """Return mean and standard deviation of each colour that a model was trained with, or ImageNet's where it does not say.

    Args:
        name: Name of the model on the hub, or a local folder.
        local: Look on this machine alone.
    """
    try:
        found, _ = ImageProcessingMixin.get_image_processor_dict(name, local_files_only=local)
    except OSError:
        found = {}
    return found.get("image_mean", IMAGENET_MEAN), found.get("image_std", IMAGENET_STD)


class FeatureMapEncoder(nn.Module, ABC):
    """A frozen network that gives features of the places of an image.

    Attributes:
        width: Length of a feature.
    """

    width: int

    @abstractmethod
    def forward(self, image: Tensor) -> Tensor:
        """Return the features `(B, width, h, w)` of images `(B, 3, H, W)` in [-1, 1], float32, without a gradient."""

    @property
    @abstractmethod
    def features_hash(self) -> str:
        """A name for what `forward` computes, by which cached features are known."""

    @final
    def train(self, mode: bool = True) -> FeatureMapEncoder:
        """Stay in evaluation mode, whatever `mode` is."""
        return super().train(False)


class VisionEncoder(FeatureMapEncoder):
    """A vision transformer from Hugging Face (DINOv2, ViT, ...) that gives patch features and is never trained.

    Args:
        name: Name of the model on the hub, or a local folder.
        size: Side in pixels to which images are resized first; a multiple of the model's patch size.
        patches: Number of patches along a side to which features are averaged; it divides the model's own. None: the model's own.

    Attributes:
        count: Patches along a side.
        width: Features of a patch.

    Raises:
        FileNotFoundError: Where there is no such model.
        ValueError: Where `size` is no multiple of the patch size, or `patches` does not divide the model's patches.

    References:
        Oquab et al., 2023, arXiv:2304.07193.
    """

    def __init__(self, name: str, *, size: int = 224, patches: int | None = None) -> None:
        super().__init__()
        check("encoder.size", size, COUNT)
        check("encoder.patches", patches, Optional(COUNT, "those of the model"))
        with loading("vision encoder", name, advice="set the encoder's name=FOLDER") as local:
            config = AutoConfig.from_pretrained(name, local_files_only=local)
            self.network = AutoModel.from_pretrained(name, local_files_only=local, **WEIGHTS)
        patch = getattr(config, "patch_size", None)
        if patch is None or size % patch:
            raise ValueError(
                f"side {size} is not a multiple of the patches of {name!r}, {patch} pixels; choose another"
            )
        self.size = size
        self.statistics = colour_statistics(name, local=local)
        own = size // patch
        self.count = own if patches is None else patches
        if own % self.count:
            raise ValueError(
                f"encoder.patches={patches} cannot be: {name!r} gives {own} patches along a side of {size} pixels; "
                f"give one of {', '.join(str(count) for count in range(1, own + 1) if own % count == 0)}"
            )
        self.pooled = own // self.count
        self.width = config.hidden_size
        self.network.requires_grad_(False).eval()

    @torch.no_grad()
    def forward(self, image: Tensor) -> Tensor:
        """Return the features `(B, width, count, count)` of the patches of images `(B, 3, H, W)` in [-1, 1]."""
        pixels = standardized(image, self.size, *self.statistics)
        tokens = self.network(pixels, **self._options()).last_hidden_state
        own = self.count * self.pooled
        patches = tokens[:, -(own**2) :]  # before them stand those of the whole image
        return F.avg_pool2d(patches.transpose(1, 2).unflatten(2, (own, own)), self.pooled)

    @property
    def features_hash(self) -> str:
        """A name for what `forward` computes, by which cached features are known."""
        colours = [[float(value) for value in values] for values in self.statistics]
        kind = f"{self.network.config.model_type} {self.size} {self.count} {colours}"
        state = self.network.state_dict().items()
        # a pooler is not asked, and is random where a file has none
        return weights_hash(((name, tensor) for name, tensor in state if "pooler" not in name), kind)

    def _options(self) -> dict[str, bool]:
        """Return the options with which a network takes images of another side than its own; ViT must be asked to."""
        return {"interpolate_pos_encoding": True} if self.network.config.model_type == "vit" else {}
