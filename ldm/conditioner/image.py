"""The embedding of an image as a condition: image variation."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from ldm.batch import Condition, Fields
from ldm.conditioner.base import SingleConditioner, tensor_to_text, text_to_tensor, without
from ldm.options.rule import COUNT, FLAG, Optional, check
from ldm.pretrained.embedding import ImageEmbedder
from ldm.pretrained.extractor import Extractor


class ImageConditioner(SingleConditioner):
    """The embedding of the image by a frozen vision network (CLIP, DINOv2), as tokens or as a vector.

    The network goes into the checkpoint, so that sampling needs neither hub nor folder. Where embeddings are cached
    (`image_embedding`), they take its place; without a network, they are all that is read.

    Args:
        name: Name of the vision network on the hub, or a local folder; None: `encoder` is it, or samples have an
            `image_embedding`.
        encoder: An extractor that embeds the whole image, in place of a named network; None: there is none.
        embedding_width: Width of what the network gives.
        width: Width of the tokens; None: it is a vector.
        vector_width: Width of the vector, that of one embedding; None: it is tokens. Give this or `width`.
        patches: A token for each patch; otherwise one for the whole image.
        projection: A learned linear layer makes the tokens, or the vector, of the embedding. Without it the widths are equal.
        size: Side in pixels to which the network's images are resized.
        drop_rate: Fraction of the training images that are dropped, in [0, 1]; their embedding is then zero.

    Raises:
        ValueError: Where the widths do not go together, patches shall be a vector, or two networks are given, or patches of an
            extractor, which gives none.

    References:
        Ramesh et al., 2022, section 2.1, arXiv:2204.06125; Ye et al., 2023, section 3.2, arXiv:2308.06721.
    """

    def __init__(
        self,
        name: str | None,
        *,
        encoder: Extractor | None = None,
        embedding_width: int = 768,
        width: int | None = 768,
        vector_width: int | None = None,
        patches: bool = False,
        projection: bool = False,
        size: int = 224,
        drop_rate: float = 0.1,
    ) -> None:
        super().__init__(drop_rate=drop_rate)
        check("conditioner.embedding_width", embedding_width, COUNT)
        check("conditioner.width", width, Optional(COUNT, "the image is a vector"))
        check("conditioner.vector_width", vector_width, Optional(COUNT, "the image is tokens"))
        check("conditioner.patches", patches, FLAG)
        check("conditioner.projection", projection, FLAG)
        given = width if vector_width is None else vector_width
        if given is None or (width is not None and vector_width is not None):
            raise ValueError(
                "an image is tokens, conditioner.width, or a vector, conditioner.vector_width; give one of them; got "
                f"{width} and {vector_width}"
            )
        if vector_width is not None and patches:
            raise ValueError(
                "patches are tokens: set conditioner.patches=false, or conditioner.width instead of vector_width"
            )
        if encoder is not None and (name is not None or patches):
            raise ValueError(
                "conditioner.encoder embeds the whole image, in the place of a named network: set conditioner.name=null and "
                f"conditioner.patches=false with it; got {name!r} and {patches}"
            )
        if not projection and given != embedding_width:
            raise ValueError(
                f"an embedding of width {embedding_width} does not become one of {given} by itself; set conditioner.projection="
                f"true, or conditioner.{'width' if vector_width is None else 'vector_width'}={embedding_width}"
            )
        self.width = width
        self.vector_width = vector_width
        self.embedding_width = embedding_width
        self.inputs = ("image_embedding",) if name is None and encoder is None else ("image",)
        self.encoder = None if encoder is None else encoder.requires_grad_(False)
        self.network = None if name is None else ImageEmbedder(name, size=size, patches=patches)
        self.projection = nn.Linear(embedding_width, given) if projection else None

    def prepare(self, samples: Iterable[Fields] | None) -> None:
        """Load the vision network, if there is to be one; no samples are read."""
        if self.network is not None:
            self.network.load()

    def encode(self, fields: Fields, dropped: Tensor) -> Condition:
        """Return the condition of `image`, `(B, 3, H, W)`, or of `image_embedding`, `(B, D)` or `(B, L, D)`.

        Returns:
            Tokens `(B, L, width)`, or a vector `(B, vector_width)`.
        """
        embedding = without(self._embedding(fields), dropped)
        if self.projection is not None:
            embedding = self.projection(embedding)
        if self.vector_width is None:
            return Condition(tokens=embedding)
        if embedding.shape[1] != 1:
            raise ValueError(
                f"a vector is made of one embedding, but the field image_embedding has {embedding.shape[1]} of each image; set "
                "conditioner.width instead of conditioner.vector_width"
            )
        return Condition(vector=embedding[:, 0])

    def get_extra_state(self) -> Tensor:
        """Return the architecture of the vision network, for the state dict."""
        return text_to_tensor("" if self.network is None else self.network.description)

    def set_extra_state(self, state: Tensor) -> None:
        """Take the architecture of the vision network from a state dict."""
        if self.network is not None:
            self.network.restore(tensor_to_text(state))

    @torch.no_grad()
    def _features(self, image: Tensor) -> Tensor:
        """Return the extractor's embeddings, `(B, 1, D)`, of images `(B, 3, H, W)` in [-1, 1]."""
        assert self.encoder is not None
        features: Tensor = self.encoder(image)
        return features[:, None]

    def _embedding(self, fields: Fields) -> Tensor:
        """Return the embeddings, `(B, L, D)`."""
        if "image_embedding" in fields or (self.network is None and self.encoder is None):
            given = self.tensor(fields, "image_embedding").float()
            embedding = given[:, None] if given.ndim == 2 else given
        elif self.network is not None:
            embedding = self.network(self.tensor(fields, "image"))
        else:
            embedding = self._features(self.tensor(fields, "image"))
        if embedding.ndim != 3 or embedding.shape[-1] != self.embedding_width:
            raise ValueError(
                f"an image has embeddings {tuple(embedding.shape)}, not (B, L, {self.embedding_width}); set "
                f"conditioner.embedding_width={embedding.shape[-1]}"
            )
        return embedding
