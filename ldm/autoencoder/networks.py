"""The convolutional encoder and decoder networks of the LDM paper."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from ldm.nn.attention import MapAttention
from ldm.nn.blocks import Downsample, ResidualBlock, Upsample

EPS = 1e-6
"""The epsilon of all group norms."""


@dataclass(frozen=True)
class Shape:
    """The options that encoder and decoder share. All but `widths` are those of ConvAutoencoder.

    Attributes:
        widths: Channels of the levels, from the image down.
    """

    widths: list[int]
    blocks: int
    attention_levels: Sequence[int]
    middle_attention: bool
    dropout: float
    groups: int

    def residual(self, channels: int, width: int) -> ResidualBlock:
        """Return a residual block from `channels` to `width` channels, without a timestep embedding."""
        return ResidualBlock(channels, width, dropout=self.dropout, groups=self.groups, eps=EPS, zero_init=True)

    def attention(self, width: int, wanted: bool) -> nn.Module:
        """Return self-attention, or the identity if it is not wanted."""
        return MapAttention(width, groups=self.groups, eps=EPS) if wanted else nn.Identity()

    def level(self, channels: int, index: int, blocks: int, resample: nn.Module | None) -> AutoencoderLevel:
        """Return a level.

        Args:
            channels: Channels of its input.
            index: Index of the level, from the image down.
            blocks: Number of residual blocks.
            resample: Changes the resolution at the end; None: it stays.

        Returns:
            The level.
        """
        width = self.widths[index]
        residuals = [self.residual(channels if place == 0 else width, width) for place in range(blocks)]
        attentions = [self.attention(width, index in self.attention_levels) for _ in range(blocks)]
        return AutoencoderLevel(residuals, attentions, resample)

    def middle(self) -> nn.Sequential:
        """Return the blocks at the lowest resolution."""
        width = self.widths[-1]
        return nn.Sequential(
            self.residual(width, width), self.attention(width, self.middle_attention), self.residual(width, width)
        )


class AutoencoderLevel(nn.Module):
    """The residual blocks at one resolution, each followed by self-attention where wanted, then a change of resolution.

    Args:
        residuals: The residual blocks, in their order.
        attentions: The module that follows each residual block.
        resample: Changes the resolution; None: it stays.
    """

    def __init__(
        self, residuals: Sequence[nn.Module], attentions: Sequence[nn.Module], resample: nn.Module | None
    ) -> None:
        super().__init__()
        self.residuals = nn.ModuleList(residuals)
        self.attentions = nn.ModuleList(attentions)
        self.resample = resample if resample is not None else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Return a map `(B, C', h', w')` from x `(B, C, h, w)`."""
        for residual, attention in zip(self.residuals, self.attentions, strict=True):
            x = attention(residual(x))
        resampled: Tensor = self.resample(x)
        return resampled


class Encoder(nn.Module):
    """The encoder network, from images to features.

    Args:
        channels: Channels after the first convolution.
        shape: The options that encoder and decoder share.
        out_channels: Channels of the features.
    """

    def __init__(self, channels: int, shape: Shape, out_channels: int) -> None:
        super().__init__()
        widths, last = shape.widths, len(shape.widths) - 1
        self.conv_in = nn.Conv2d(3, channels, 3, padding=1)
        self.levels = nn.ModuleList(
            shape.level(
                widths[index - 1] if index else channels,
                index,
                shape.blocks,
                Downsample(width, asymmetric=True) if index < last else None,
            )
            for index, width in enumerate(widths)
        )
        self.middle = shape.middle()
        self.norm_out = nn.GroupNorm(shape.groups, widths[-1], eps=EPS)
        self.conv_out = nn.Conv2d(widths[-1], out_channels, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        """Return features, `(B, out_channels, H/f, W/f)`, of images, `(B, 3, H, W)`."""
        x = self.conv_in(image)
        for level in self.levels:
            x = level(x)
        features: Tensor = self.conv_out(F.silu(self.norm_out(self.middle(x))))
        return features


class Decoder(nn.Module):
    """The decoder network, from raw latents to images.

    Args:
        latent_channels: Channels of the raw latents.
        shape: The options that encoder and decoder share.
    """

    def __init__(self, latent_channels: int, shape: Shape) -> None:
        super().__init__()
        widths, last = shape.widths, len(shape.widths) - 1
        self.conv_in = nn.Conv2d(latent_channels, widths[-1], 3, padding=1)
        self.middle = shape.middle()
        self.levels = nn.ModuleList(
            shape.level(
                widths[min(index + 1, last)], index, shape.blocks + 1, Upsample(widths[index]) if index else None
            )
            for index in range(last, -1, -1)
        )
        self.norm_out = nn.GroupNorm(shape.groups, widths[0], eps=EPS)
        self.conv_out = nn.Conv2d(widths[0], 3, 3, padding=1)

    def forward(self, raw: Tensor) -> Tensor:
        """Return images, `(B, 3, h*f, w*f)`, of raw latents, `(B, latent_channels, h, w)`."""
        x = self.middle(self.conv_in(raw))
        for level in self.levels:
            x = level(x)
        image: Tensor = self.conv_out(F.silu(self.norm_out(x)))
        return image
