"""Embeddings of images by a frozen vision transformer."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn
from transformers import AutoModel, CLIPVisionModelWithProjection

from ldm.pretrained.frozen import FrozenNetwork


class ImageEmbedder(FrozenNetwork):
    """A vision transformer of Hugging Face (CLIP, DINOv2, ViT, ...), which embeds an image.

    Args:
        name: Name of the model on the hub, or a local folder.
        size: Side in pixels to which images are resized first.
        patches: Give the last hidden states, one of each patch with those of the whole image before them. Otherwise one embedding
            of the whole image: of CLIP that in the space of texts, of others the first of the last hidden states.
        option: Name of the group of options by which a user gives name and size, for errors.

    References:
        Radford et al., 2021, arXiv:2103.00020; Oquab et al., 2023, arXiv:2304.07193.
    """

    kind = "vision network"
    auto: ClassVar = AutoModel
    classes: ClassVar = {"clip_vision_model": CLIPVisionModelWithProjection}

    def __init__(self, name: str, *, size: int = 224, patches: bool = False, option: str = "conditioner") -> None:
        super().__init__(name, size=size, option=option)
        self.patches = patches

    def read(self, network: nn.Module, pixels: Tensor) -> Tensor:
        """Return the embeddings `(B, L, D)` of standardized images `(B, 3, size, size)`."""
        output = network(pixels)
        hidden: Tensor = output.last_hidden_state
        if self.patches:
            return hidden
        whole: Tensor | None = getattr(output, "image_embeds", None)
        return hidden[:, :1] if whole is None else whole[:, None]
