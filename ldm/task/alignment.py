"""Representation alignment (REPA): features of the U-Net are trained to match those of a pretrained vision encoder."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from ldm.backbone.base import Backbone
from ldm.batch import Fields, tensor_field
from ldm.pretrained.vision import FeatureMapEncoder


class REPA(nn.Module):
    """The alignment loss: minus the cosine between projected features of the backbone and those of a vision encoder.

    The encoder is frozen. Its features are taken from the batch, where they were cached; else they are computed from the images.
    The features of the backbone come from its middle. They are projected and then enlarged to the patches of the encoder. The
    projection is trained with the backbone and thrown away afterwards.

    Args:
        backbone: The backbone; from now on, the features of its middle are kept at each call.
        encoder: The vision encoder, whose features are the target.
        weight: Weight of this loss, beside the denoising loss.
        steps: The number of steps after which it ends: it helps in the beginning, but may harm in the end.

    References:
        Yu et al., 2024, eq. 8 and 9, arXiv:2410.06940; Tian et al., 2025, section 3.2 (for U-Nets), arXiv:2503.18414.
    """

    inputs = ("patch_features",)
    """The field that is read where a batch has it."""

    def __init__(
        self, backbone: Backbone, encoder: FeatureMapEncoder, *, weight: float = 0.5, steps: int = 100_000
    ) -> None:
        super().__init__()
        self._encoder = (encoder,)  # in a tuple, so that it is neither saved nor averaged
        self.weight = weight
        self.steps = steps
        self.project = nn.Sequential(
            nn.Conv2d(backbone.deepest_channels, encoder.width, 1),
            nn.SiLU(),
            nn.Conv2d(encoder.width, encoder.width, 1),
            nn.SiLU(),
            nn.Conv2d(encoder.width, encoder.width, 1),
        )
        self._features: Tensor | None = None
        backbone.deepest.register_forward_hook(self._see)

    def _see(self, module: nn.Module, given: tuple[Any, ...], output: Tensor) -> None:
        """Keep the output of the backbone's middle (a forward hook)."""
        self._features = output

    @property
    def features_hash(self) -> str:
        """A name for the features of the encoder, by which cached ones are known."""
        return self._encoder[0].features_hash

    def forward(self, fields: Fields, step: int) -> Tensor:
        """Return the weighted loss for the last call of the backbone.

        Args:
            fields: Fields of the batch of that call: `patch_features` `(B, D, h, w)`, as the encoder gives them, or else `image`
                `(B, 3, H, W)` in [-1, 1].
            step: Number of the training step.

        Returns:
            The loss, a scalar; 0 once `steps` is reached.

        Raises:
            ValueError: If there are neither features nor images, or the backbone was not called.
        """
        features, self._features = self._features, None
        if step >= self.steps:
            # zero, but with a gradient for each parameter, which DDP needs
            return 0.0 * nn.utils.parameters_to_vector(self.project.parameters()).sum()
        if features is None:
            raise ValueError("alignment compares features of the backbone, which was not called; call it first")
        wanted = self._wanted(fields)
        projected = F.interpolate(self.project(features.float()), wanted.shape[2:], mode="bilinear")
        return -self.weight * F.cosine_similarity(projected, wanted, dim=1).mean()

    def _wanted(self, fields: Fields) -> Tensor:
        """Return the features of the encoder, float32."""
        if "patch_features" in fields:
            return tensor_field(fields, "patch_features").float()
        if "image" not in fields:
            raise ValueError(
                "alignment needs images, or the features of its encoder beside latents, but batches hold latents alone; "
                "encode them with alignment=repa, or set data.cache_latents=false, data=shards"
            )
        image = tensor_field(fields, "image")
        wanted: Tensor = self._encoder[0].to(image.device)(image.float())
        return wanted
