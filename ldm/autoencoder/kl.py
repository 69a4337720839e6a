"""The paper's KL-regularised autoencoder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from ldm.autoencoder.base import Autoencoder, Posterior
from ldm.nn.attention import MapAttention
from ldm.nn.blocks import Downsample, ResidualBlock, Upsample, check_groups, check_levels
from ldm.options import COUNT, Real, check

EPS = 1e-6


class KLAutoencoder(Autoencoder):
    """Convolutional encoder and decoder with a Gaussian posterior over the raw latent; f = 2 ** (levels - 1).

    channels          of the first level
    multipliers       channels of each level, from the image down, in units of `channels`
    blocks            residual blocks a level of the encoder; the decoder has one more
    latent_channels   C of the raw latent
    attention_levels  indices of levels with self-attention (the middle has it always if `middle_attention`)
    dropout           inside residual blocks, in [0, 1)
    groups            of the group norms
    log_variance      of the posterior at the start (paper: 0); -6 spares short runs the time to learn that noise hurts

    Residual blocks start as their skip connections, as in the U-Net. The paper's do not; with it, 930 steps on icons gave
    25.9 dB instead of 24.6 dB.

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
        log_variance: float = 0.0,
    ) -> None:
        counts = {"channels": channels, "blocks": blocks, "latent_channels": latent_channels, "groups": groups}
        for name, count in [*counts.items(), *(("multipliers", multiplier) for multiplier in multipliers)]:
            check(f"autoencoder.network.{name}", count, COUNT)
        check("autoencoder.network.dropout", dropout, Real(0.0, 1.0, below=True))
        check("autoencoder.network.log_variance", log_variance, Real(-30.0, 20.0))
        if not multipliers:
            raise ValueError(
                "autoencoder.network.multipliers=[] is no level; give one multiplier for each, like [1,2,4]"
            )
        super().__init__(latent_channels, 2 ** (len(multipliers) - 1))
        shape = Shape(
            [channels * multiplier for multiplier in multipliers],
            blocks,
            attention_levels,
            middle_attention,
            dropout,
            groups,
        )
        check_groups(groups, [channels, *shape.widths])
        check_levels(attention_levels, len(multipliers))
        self.encoder = Encoder(channels, shape, 2 * latent_channels)
        self.decoder = Decoder(latent_channels, shape)
        self.to_moments = nn.Conv2d(2 * latent_channels, 2 * latent_channels, 1)
        nn.init.constant_(self.to_moments.bias[latent_channels:], log_variance)  # type: ignore[index]
        self.from_raw = nn.Conv2d(latent_channels, latent_channels, 1)

    def encode(self, image: Tensor) -> Posterior:
        return Posterior(self.to_moments(self.encoder(image)))

    def decode(self, raw: Tensor) -> Tensor:
        return self.decoder(self.from_raw(raw))

    def encoding_parts(self) -> Sequence[nn.Module]:
        return [self.encoder, self.to_moments]

    def last_layer(self) -> Tensor:
        return self.decoder.conv_out.weight


@dataclass(frozen=True)
class Shape:
    """What encoder and decoder have in common.

    widths  channels of the levels, from the image down

    The others are those of KLAutoencoder.
    """

    widths: list[int]
    blocks: int
    attention_levels: Sequence[int]
    middle_attention: bool
    dropout: float
    groups: int

    def residual(self, channels: int, width: int) -> ResidualBlock:
        """Without a time embedding."""
        return ResidualBlock(channels, width, dropout=self.dropout, groups=self.groups, eps=EPS, zero_init=True)

    def attention(self, width: int, wanted: bool) -> nn.Module:
        """Self-attention, or nothing."""
        return MapAttention(width, groups=self.groups, eps=EPS) if wanted else nn.Identity()

    def level(self, channels: int, index: int, blocks: int, resample: nn.Module | None) -> Level:
        """The level of this index, entered with `channels`."""
        width = self.widths[index]
        residuals = [self.residual(channels if place == 0 else width, width) for place in range(blocks)]
        attentions = [self.attention(width, index in self.attention_levels) for _ in range(blocks)]
        return Level(residuals, attentions, resample)

    def middle(self) -> nn.Sequential:
        """At the lowest resolution."""
        width = self.widths[-1]
        return nn.Sequential(
            self.residual(width, width), self.attention(width, self.middle_attention), self.residual(width, width)
        )


class Level(nn.Module):
    """Residual blocks at one resolution, each followed by self-attention where wanted, then a change of resolution.

    residuals   blocks, in their order
    attentions  what follows each
    resample    changes the resolution; None: it stays
    """

    def __init__(
        self, residuals: Sequence[nn.Module], attentions: Sequence[nn.Module], resample: nn.Module | None
    ) -> None:
        super().__init__()
        self.residuals = nn.ModuleList(residuals)
        self.attentions = nn.ModuleList(attentions)
        self.resample = resample if resample is not None else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        for residual, attention in zip(self.residuals, self.attentions, strict=True):
            x = attention(residual(x))
        return self.resample(x)


class Encoder(nn.Module):
    """Image `(B, 3, H, W)` -> features `(B, out_channels, H/f, W/f)`; the first convolution gives `channels`."""

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
        x = self.conv_in(image)
        for level in self.levels:
            x = level(x)
        return self.conv_out(F.silu(self.norm_out(self.middle(x))))


class Decoder(nn.Module):
    """Raw latent `(B, latent_channels, h, w)` -> image `(B, 3, h*f, w*f)`."""

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
        x = self.middle(self.conv_in(raw))
        for level in self.levels:
            x = level(x)
        return self.conv_out(F.silu(self.norm_out(x)))
