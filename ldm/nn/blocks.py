"""Convolutional blocks of autoencoder and U-Net."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn


class ResidualBlock(nn.Module):
    """Two normalised 3x3 convolutions added to the input; a time embedding, where there is one, enters between them.

    channels         of the input
    out_channels     of the result
    embedding_width  width of the time embedding; None: no embedding
    scale_shift      the embedding scales and shifts the second norm instead of being added before it
    resample         applied to both paths before the first convolution (BigGAN's up- and downsampling)
    dropout          before the second convolution, in [0, 1)
    groups, eps      of the group norms
    zero_init        the second convolution starts at zero, so that the block starts as its skip connection

    Paper: Dhariwal & Nichol, 2021, section 3, arXiv:2105.05233.
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
        """x `(B, C, H, W)`, embedding `(B, embedding_width)` -> `(B, out_channels, H', W')`."""
        hidden = self.conv1(self.resample(F.silu(self.norm1(x))))
        x = self.resample(x)
        if self.embed is None or embedding is None:
            hidden = self.norm2(hidden)
        elif self.scale_shift:
            scale, shift = self.embed(F.silu(embedding))[:, :, None, None].chunk(2, dim=1)
            hidden = self.norm2(hidden) * (1 + scale) + shift
        else:
            hidden = self.norm2(hidden + self.embed(F.silu(embedding))[:, :, None, None])
        return self.skip(x) + self.conv2(self.dropout(F.silu(hidden)))


class Downsample(nn.Module):
    """Halve the side by a strided 3x3 convolution.

    channels    of input and result
    asymmetric  pad right and below only (the autoencoder's way) instead of on all sides (the U-Net's)

    An embedding is taken and ignored, so that a `ResidualBlock` that resamples can stand in its place.
    """

    def __init__(self, channels: int, *, asymmetric: bool = False) -> None:
        super().__init__()
        self.asymmetric = asymmetric
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=0 if asymmetric else 1)

    def forward(self, x: Tensor, embedding: Tensor | None = None) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)) if self.asymmetric else x)


class Upsample(nn.Module):
    """Double the side by repeating places, then a 3x3 convolution, `channels` to `channels`.

    An embedding is ignored, as in `Downsample`.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, embedding: Tensor | None = None) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


def check_levels(attention_levels: Sequence[int], levels: int) -> None:
    """Raise ValueError where attention is asked for at a level that does not exist: it would be left out silently."""
    wrong = [level for level in attention_levels if not 0 <= level < levels]
    if wrong:
        raise ValueError(
            f"attention_levels {wrong} do not exist; with {levels} multipliers choose from 0 to {levels - 1}"
        )


def check_groups(groups: int, channels: list[int]) -> None:
    """Raise ValueError where a group norm could not divide its channels: better at construction than in a forward."""
    wrong = [count for count in channels if count % groups]
    if wrong:
        raise ValueError(
            f"{groups} groups do not divide {wrong} channels; choose channels that are multiples of {groups}"
        )
