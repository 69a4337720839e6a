"""The paper's KL-regularised autoencoder."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from ldm.autoencoder.base import Autoencoder, Posterior
from ldm.nn.attention import MapAttention
from ldm.nn.blocks import Downsample, ResidualBlock, Upsample, check_groups, check_levels

EPS = 1e-6


class KLAutoencoder(Autoencoder):
    """Convolutional encoder and decoder with a Gaussian posterior over the raw latent; f = 2 ** (levels - 1).

    channels          of the first level
    multipliers       channels of each level, from the image down, in units of `channels`
    blocks            residual blocks a level of the encoder; the decoder has one more
    latent_channels   C of the raw latent
    attention_levels  indices of levels with self-attention (the middle has it always if `middle_attention`)
    groups            of the group norms

    Paper: Rombach et al., 2022, section 3.1, appendix G, arXiv:2112.10752.
    """

    def __init__(
        self,
        *,
        channels: int = 128,
        multipliers: Sequence[int] = (1, 2, 4, 4),
        blocks: int = 2,
        latent_channels: int = 4,
        attention_levels: Sequence[int] = (),
        middle_attention: bool = True,
        dropout: float = 0.0,
        groups: int = 32,
    ) -> None:
        super().__init__(latent_channels, 2 ** (len(multipliers) - 1))
        widths = [channels * multiplier for multiplier in multipliers]
        check_groups(groups, [channels, *widths])
        check_levels(attention_levels, len(widths))
        shared = {"blocks": blocks, "attention_levels": attention_levels, "middle_attention": middle_attention}
        self.encoder = Encoder(channels, widths, 2 * latent_channels, dropout=dropout, groups=groups, **shared)
        self.decoder = Decoder(widths, latent_channels, dropout=dropout, groups=groups, **shared)
        self.to_moments = nn.Conv2d(2 * latent_channels, 2 * latent_channels, 1)
        self.from_raw = nn.Conv2d(latent_channels, latent_channels, 1)

    def encode(self, image: Tensor) -> Posterior:
        return Posterior(self.to_moments(self.encoder(image)))

    def decode(self, raw: Tensor) -> Tensor:
        return self.decoder(self.from_raw(raw))

    def last_layer(self) -> Tensor:
        return self.decoder.conv_out.weight


class Level(nn.Module):
    """Residual blocks at one resolution, each followed by self-attention where wanted, then a change of resolution."""

    def __init__(
        self,
        channels: int,
        width: int,
        blocks: int,
        *,
        attention: bool,
        dropout: float,
        groups: int,
        resample: nn.Module | None,
    ) -> None:
        super().__init__()
        self.residuals = nn.ModuleList(
            _residual(channels if index == 0 else width, width, dropout, groups) for index in range(blocks)
        )
        self.attentions = nn.ModuleList(
            MapAttention(width, groups=groups, eps=EPS) if attention else nn.Identity() for _ in range(blocks)
        )
        self.resample = resample if resample is not None else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        for residual, attention in zip(self.residuals, self.attentions, strict=True):
            x = attention(residual(x))
        return self.resample(x)


class Encoder(nn.Module):
    """Image `(B, 3, H, W)` -> features `(B, out_channels, H/f, W/f)`."""

    def __init__(
        self,
        channels: int,
        widths: list[int],
        out_channels: int,
        *,
        blocks: int,
        attention_levels: Sequence[int],
        middle_attention: bool,
        dropout: float,
        groups: int,
    ) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(3, channels, 3, padding=1)
        last = len(widths) - 1
        self.levels = nn.ModuleList(
            Level(
                widths[max(index - 1, 0)] if index else channels,
                width,
                blocks,
                attention=index in attention_levels,
                dropout=dropout,
                groups=groups,
                resample=Downsample(width, asymmetric=True) if index < last else None,
            )
            for index, width in enumerate(widths)
        )
        self.middle = _middle(widths[-1], middle_attention, dropout, groups)
        self.norm_out = nn.GroupNorm(groups, widths[-1], eps=EPS)
        self.conv_out = nn.Conv2d(widths[-1], out_channels, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        x = self.conv_in(image)
        for level in self.levels:
            x = level(x)
        return self.conv_out(F.silu(self.norm_out(self.middle(x))))


class Decoder(nn.Module):
    """Raw latent `(B, C, h, w)` -> image `(B, 3, h*f, w*f)`."""

    def __init__(
        self,
        widths: list[int],
        latent_channels: int,
        *,
        blocks: int,
        attention_levels: Sequence[int],
        middle_attention: bool,
        dropout: float,
        groups: int,
    ) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(latent_channels, widths[-1], 3, padding=1)
        self.middle = _middle(widths[-1], middle_attention, dropout, groups)
        last = len(widths) - 1
        self.levels = nn.ModuleList(
            Level(
                widths[min(index + 1, last)],
                widths[index],
                blocks + 1,
                attention=index in attention_levels,
                dropout=dropout,
                groups=groups,
                resample=Upsample(widths[index]) if index else None,
            )
            for index in reversed(range(len(widths)))
        )
        self.norm_out = nn.GroupNorm(groups, widths[0], eps=EPS)
        self.conv_out = nn.Conv2d(widths[0], 3, 3, padding=1)

    def forward(self, raw: Tensor) -> Tensor:
        x = self.middle(self.conv_in(raw))
        for level in self.levels:
            x = level(x)
        return self.conv_out(F.silu(self.norm_out(x)))


def _residual(channels: int, width: int, dropout: float, groups: int) -> ResidualBlock:
    return ResidualBlock(channels, width, dropout=dropout, groups=groups, eps=EPS)


def _middle(width: int, attention: bool, dropout: float, groups: int) -> nn.Sequential:
    return nn.Sequential(
        _residual(width, width, dropout, groups),
        MapAttention(width, groups=groups, eps=EPS) if attention else nn.Identity(),
        _residual(width, width, dropout, groups),
    )
