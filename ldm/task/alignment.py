"""REPA: the features of the U-Net learn to say what a pretrained network sees in the clean image."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from ldm.backbone.base import Backbone
from ldm.pretrained.vision import VisionEncoder


class REPA(nn.Module):
    """Minus the cosine of projected features of the backbone and those of a frozen vision encoder, for the first steps.

    The features are those of the backbone's middle, projected and then enlarged to the encoder's patches. The projection is
    trained along and thrown away.

    backbone  of whose middle the features are, at each of its calls from now on
    encoder   its features are what is aligned to
    weight    of the loss, beside the denoising loss
    steps     after which it ends: what it gives in the beginning it may take in the end

    Paper: Yu et al., 2024, eq. 8 and 9, arXiv:2410.06940; Tian et al., 2025, section 3.2 (for U-Nets), arXiv:2503.18414.
    """

    def __init__(
        self, backbone: Backbone, encoder: VisionEncoder, *, weight: float = 0.5, steps: int = 100_000
    ) -> None:
        super().__init__()
        self._encoder = (encoder,)  # no part of what is saved and averaged
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

    def _see(self, module: nn.Module, given: tuple, output: Tensor) -> None:
        self._features = output

    def forward(self, image: Tensor | None, step: int) -> Tensor:
        """Weighted loss of the last call of the backbone, which saw these images `(B, 3, H, W)`; a scalar, 0 at the end."""
        features, self._features = self._features, None
        if step >= self.steps:
            return 0.0 * nn.utils.parameters_to_vector(self.project.parameters()).sum()  # DDP wants all gradients
        if image is None or features is None:
            raise ValueError(
                "alignment needs images, but batches hold latents; set data.cache_latents=false, data=shards"
            )
        wanted = self._encoder[0].to(image.device)(image.float())
        projected = F.interpolate(self.project(features.float()), wanted.shape[2:], mode="bilinear")
        return -self.weight * F.cosine_similarity(projected, wanted, dim=1).mean()
