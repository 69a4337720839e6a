"""Embeddings of similar images as a condition: retrieval-augmented diffusion."""

from __future__ import annotations

from collections.abc import Iterable

import torch.nn.functional as F
from torch import Tensor

from ldm.batch import Condition, Fields
from ldm.conditioner.base import SingleConditioner, without
from ldm.options.rule import COUNT, POSITIVE, check


class NeighborsConditioner(SingleConditioner):
    """The embeddings of an image's nearest neighbours, all scaled to one length, as tokens.

    Their number may differ between training and sampling. A text has an embedding in the same space where the network that made
    them is CLIP: so a model that never saw a caption can be conditioned on one, as its only neighbour.

    Args:
        width: Width of the embeddings.
        max_neighbors: At most so many neighbours are used: the first ones, which are the nearest.
        scale: The length of a token; 1 in the paper. With the square root of `width` the numbers of a token are about 1 in size,
            from which a small model learns faster.
        drop_rate: Fraction of the training images whose neighbours are dropped, in [0, 1]; their tokens are then zero.

    References:
        Blattmann et al., 2022, section 3, arXiv:2204.11824.
    """

    inputs = ("neighbors",)

    def __init__(
        self, *, width: int = 768, max_neighbors: int = 20, scale: float = 1.0, drop_rate: float = 0.1
    ) -> None:
        super().__init__(drop_rate=drop_rate)
        check("conditioner.width", width, COUNT)
        check("conditioner.max_neighbors", max_neighbors, COUNT)
        check("conditioner.scale", scale, POSITIVE)
        self.width = width
        self.max_neighbors = max_neighbors
        self.scale = scale

    def prepare(self, samples: Iterable[Fields] | None) -> None:
        """Do nothing: nothing is learned."""

    def encode(self, fields: Fields, dropped: Tensor) -> Condition:
        """Return the condition of `neighbors`, `(B, K, width)`: tokens of this shape, or of fewer neighbours."""
        neighbors = self.tensor(fields, "neighbors").float()
        if neighbors.ndim != 3 or neighbors.shape[-1] != self.width:
            raise ValueError(
                f"the field neighbors is (B, K, D) with D = conditioner.width = {self.width}; got {tuple(neighbors.shape)}; set "
                f"conditioner.width={neighbors.shape[-1]}, or give embeddings of that width"
            )
        tokens = self.scale * F.normalize(neighbors[:, : self.max_neighbors], dim=-1)
        return Condition(tokens=without(tokens, dropped))
