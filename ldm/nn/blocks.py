"""Convolutional blocks of autoencoder and U-Net."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn


class ResidualBlock(nn.Module):
    """Residual block of two normalised 3x3 convolutions, between which a time embedding may enter.

    Args:
        channels: Channels of the input.
        out_channels: Channels of the result.
        embedding_width: Length of the time embedding; None: there is none.
        scale_shift: Whether the embedding scales and shifts the second norm instead of being added before it.
        resample: Layer applied to both paths before the first convolution (BigGAN's up- and downsampling); None: none.
        dropout: Probability of dropout before the second convolution, in [0, 1).
        groups: Groups of the group norms.
        eps: Epsilon of the group norms.
        zero_init: Whether the second convolution starts at zero, so that the block starts as its skip connection.

    References:
        Dhariwal & Nichol, 2021, section 3, arXiv:2105.05233.
    """

    def __init__(
        self,
        channels: int,
        out_channels: int,
        *,
        embedding_width: int | None = None,
        scale_shift: bool = False,
        resample: nn.Module | None = None,
        dropout: float = 0.0,
        groups: int = 32,
        eps: float = 1e-5,
        zero_init: bool = False,
    ) -> None:
        super().__init__()
        self.scale_shift = scale_shift
        self.resample = resample if resample is not None else nn.Identity()
        self.norm1 = nn.GroupNorm(groups, channels, eps=eps)
        self.conv1 = nn.Conv2d(channels, out_channels, 3, padding=1)
        self.embed = nn.Linear(embedding_width, out_channels * (2 if scale_shift else 1)) if embedding_width else None
        self.norm2 = nn.GroupNorm(groups, out_channels, eps=eps)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.skip = nn.Conv2d(channels, out_channels, 1) if channels != out_channels else nn.Identity()
        if zero_init:
            nn.init.zeros_(self.conv2.weight)
            nn.init.zeros_(self.conv2.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor, embedding: Tensor | None = None) -> Tensor:
        """Apply the block.

        Args:
            x: Map `(B, channels, H, W)`.
            embedding: Time embedding `(B, embedding_width)`; None where the block has none.

        Returns:
            Map `(B, out_channels, H', W')`, whose size is what `resample` makes of (H, W).
        """
        hidden = self.conv1(self.resample(F.silu(self.norm1(x))))
        x = self.resample(x)
        if self.embed is None or embedding is None:
            hidden = self.norm2(hidden)
        elif self.scale_shift:
            scale, shift = self.embed(F.silu(embedding))[:, :, None, None].chunk(2, dim=1)
            hidden = self.norm2(hidden) * (1 + scale) + shift
        else:
            hidden = self.norm2(hidden + self.embed(F.silu(embedding))[:, :, None, None])
        out: Tensor = self.skip(x) + self.conv2(self.dropout(F.silu(hidden)))
        return out


class Downsample(nn.Module):
    """Halve height and width of a feature map by a strided 3x3 convolution.

    Args:
        channels: Channels of input and result.
        asymmetric: Whether to pad right and below only (as the autoencoder does) instead of on all sides (as the U-Net does).
    """

    def __init__(self, channels: int, *, asymmetric: bool = False) -> None:
        super().__init__()
        self.asymmetric = asymmetric
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=0 if asymmetric else 1)

    def forward(self, x: Tensor, embedding: Tensor | None = None) -> Tensor:
        """Map `(B, channels, H, W)` to `(B, channels, H/2, W/2)`.

        The embedding is ignored; it is taken so that a `ResidualBlock` that resamples can stand in this place.
        """
        out: Tensor = self.conv(F.pad(x, (0, 1, 0, 1)) if self.asymmetric else x)
        return out


class Upsample(nn.Module):
    """Double height and width of a feature map by repeating its values, then apply a 3x3 convolution.

    Args:
        channels: Channels of input and result.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, embedding: Tensor | None = None) -> Tensor:
        """Map `(B, channels, H, W)` to `(B, channels, 2H, 2W)`; the embedding is ignored, as in `Downsample`."""
        out: Tensor = self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return out


def check_levels(attention_levels: Sequence[int], levels: int) -> None:
    """Check that attention is asked for only at levels that exist: elsewhere it would be left out silently.

    Args:
        attention_levels: Levels with attention, counted from 0, the highest resolution.
        levels: Number of levels.

    Raises:
        ValueError: Where a level does not exist.
    """
    wrong = [level for level in attention_levels if not 0 <= level < levels]
    if wrong:
        raise ValueError(
            f"attention_levels {wrong} do not exist; with {levels} multipliers choose from 0 to {levels - 1}"
        )


def check_groups(groups: int, channels: list[int]) -> None:
    """Check that group norms can divide their channels: better at construction than in a forward pass.

    Args:
        groups: Groups of each norm.
        channels: Channels of the maps that are normalised.

    Raises:
        ValueError: Where `groups` does not divide a number of channels.
    """
    wrong = [count for count in channels if count % groups]
    if wrong:
        raise ValueError(
            f"{groups} groups do not divide {wrong} channels; choose channels that are multiples of {groups}"
        )
