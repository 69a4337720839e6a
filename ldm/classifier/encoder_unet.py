"""The encoder half of a U-Net, which ends in one feature vector."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from ldm.backbone.unet import UNetParts, descend, embedding_mlp, time_features
from ldm.batch import Condition
from ldm.nn.attention import AttentionPool


class EncoderUNet(nn.Module):
    """The down path and the middle of a U-Net, then attention pooling.

    Args:
        in_channels: Channels of x_t.
        model_channels: Channels of the first level.
        channel_mult: Channels of each level in units of `model_channels`.
        blocks: Residual blocks per level.
        attention_levels: Indices of the levels with attention; 0 has the resolution of the latent.
        head_channels: Channels of each attention head.
        scale_shift: The timestep embedding scales and shifts the norms, instead of being added.
        residual_resampling: Change the resolution inside residual blocks, instead of by a convolution.
        dropout: Dropout rate inside residual blocks, in [0, 1).
        groups: Groups of the group norms; they divide the channels of each level.

    Attributes:
        width: Length of the feature vector.
        downsampling_factor: Downsampling factor: height and width of latents must be multiples of it.

    References:
        Dhariwal & Nichol, 2021, section 4, arXiv:2105.05233.
    """

    def __init__(
        self,
        in_channels: int,
        *,
        model_channels: int = 128,
        channel_mult: Sequence[int] = (1, 2, 3, 4),
        blocks: int = 2,
        attention_levels: Sequence[int] = (1, 2, 3),
        head_channels: int = 64,
        scale_shift: bool = True,
        residual_resampling: bool = True,
        dropout: float = 0.0,
        groups: int = 32,
    ) -> None:
        super().__init__()
        parts = UNetParts(
            model_channels=model_channels,
            channel_mult=channel_mult,
            blocks=blocks,
            attention_levels=attention_levels,
            head_channels=head_channels,
            scale_shift=scale_shift,
            residual_resampling=residual_resampling,
            dropout=dropout,
            groups=groups,
        )
        self.model_channels = model_channels
        self.width = parts.widths[-1]
        self.downsampling_factor = parts.downsampling_factor
        self.time = embedding_mlp(model_channels, parts.time_width)
        self.conv_in = nn.Conv2d(in_channels, model_channels, 3, padding=1)
        self.down = parts.down()
        self.middle = parts.middle()
        self.norm_out = nn.GroupNorm(groups, self.width, eps=1e-5)
        self.pool = AttentionPool(self.width, self.width // head_channels)

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        """Return the features of noisy latents.

        Args:
            x_t: Noisy latents, `(B, C, h, w)`.
            t: Timesteps, `(B,)`, in [0, 1].

        Returns:
            The features, `(B, width)`.
        """
        embedding = self.time(time_features(t, self.model_channels))
        *_, x = descend(self.down, self.conv_in(x_t), embedding, Condition())
        for stage in self.middle:
            x = stage(x, embedding, Condition())
        features: Tensor = self.pool(F.silu(self.norm_out(x)))
        return features
