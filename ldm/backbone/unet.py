"""The paper's conditional U-Net."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ldm.backbone.base import Backbone
from ldm.batch import Condition
from ldm.nn.attention import MapAttention, MapTransformer
from ldm.nn.blocks import Downsample, ResidualBlock, Upsample, check_groups, check_levels
from ldm.nn.embedding import sinusoidal

TIME_STEPS = 1000
"""Discrete steps of the paper; t in [0, 1] enters the network as t * 1000 - 1, so t = (i + 1) / 1000 is its step i."""


class UNet(Backbone):
    """Residual blocks with a time embedding at several resolutions, skip connections, attention, cross-attention.

    in_channels          of x_t
    out_channels         of the prediction; None: those of x_t
    concat_channels      of a map that is put beside x_t (masks, low-resolution images); 0: none
    channels             of the first level
    multipliers          channels of each level in units of `channels`
    blocks               residual blocks a level on the way down; the way up has one more
    attention_levels     indices of levels with attention, 0 being the latent's own resolution
    heads, head_channels number of attention heads, or channels of each: give one of them
    context_width        width of the tokens to cross-attend to; None: self-attention only
    vector_width         width of a vector that is projected and added to the time embedding; None: there is none
    pool_tokens          also embed the mean token and add it to the time embedding (the paper does not)
    depth                transformer blocks at each place of attention
    scale_shift          time scales and shifts the norms instead of being added
    residual_resampling  change resolution inside residual blocks instead of by a convolution
    dropout              inside residual blocks, in [0, 1)
    groups               of the group norms; they divide the channels of each level

    Paper: Rombach et al., 2022, section 3.3, appendix E.2, arXiv:2112.10752; Dhariwal & Nichol, 2021, arXiv:2105.05233.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int | None = None,
        *,
        concat_channels: int = 0,
        channels: int = 320,
        multipliers: Sequence[int] = (1, 2, 4, 4),
        blocks: int = 2,
        attention_levels: Sequence[int] = (0, 1, 2),
        heads: int | None = None,
        head_channels: int | None = None,
        context_width: int | None = None,
        vector_width: int | None = None,
        pool_tokens: bool = False,
        depth: int = 1,
        scale_shift: bool = False,
        residual_resampling: bool = False,
        dropout: float = 0.0,
        groups: int = 32,
    ) -> None:
        super().__init__()
        parts = Parts(
            channels=channels,
            multipliers=multipliers,
            blocks=blocks,
            attention_levels=attention_levels,
            heads=heads,
            head_channels=head_channels,
            context_width=context_width,
            depth=depth,
            scale_shift=scale_shift,
            residual_resampling=residual_resampling,
            dropout=dropout,
            groups=groups,
        )
        self.factor = parts.factor
        self.channels = channels
        self.out_channels = out_channels or in_channels
        self.deepest_channels = parts.widths[-1]
        self.concat_channels = concat_channels
        self.context_width = context_width
        self.vector_width = vector_width
        self.time = embedding_mlp(channels, parts.time_width)
        if pool_tokens and context_width is None:
            raise ValueError("pool_tokens needs tokens; give a context_width too")
        self.pool = embedding_mlp(context_width, parts.time_width) if pool_tokens and context_width else None
        self.vector = None if vector_width is None else embedding_mlp(vector_width, parts.time_width)
        self.conv_in = nn.Conv2d(in_channels + concat_channels, channels, 3, padding=1)
        self.down = parts.down()
        self.middle = parts.middle()
        self.up = parts.up()
        self.norm_out = nn.GroupNorm(groups, channels, eps=1e-5)
        self.conv_out = nn.Conv2d(channels, self.out_channels, 3, padding=1)
        nn.init.zeros_(self.conv_out.weight)
        nn.init.zeros_(self.conv_out.bias)  # type: ignore[arg-type]

    def forward(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """Return the prediction `(B, out_channels, h, w)` for x_t `(B, C, h, w)` and t `(B,)` in [0, 1]."""
        self._check(condition)
        x = x_t if condition.concat is None else torch.cat([x_t, condition.concat], dim=1)
        embedding = self.time(time_features(t, self.channels))
        if self.pool is not None:
            embedding = embedding + self.pool(condition.mean_token())
        if self.vector is not None:
            embedding = embedding + self.vector(condition.vector)
        x = self.conv_in(x)
        skips = [x, *descend(self.down, x, embedding, condition)]
        x = skips[-1]
        for stage in self.middle:
            x = stage(x, embedding, condition)
        for level in self.up:
            assert isinstance(level, Level)
            for stage in level.stages:
                x = stage(torch.cat([x, skips.pop()], dim=1), embedding, condition)
            if level.resample is not None:
                x = level.resample(x, embedding)
        return self.conv_out(F.silu(self.norm_out(x)))

    @property
    def deepest(self) -> nn.Module:
        """The last stage of the middle."""
        return self.middle[-1]

    def _check(self, condition: Condition) -> None:
        tokens, vector, concat = condition.tokens, condition.vector, condition.concat
        got = {
            "context_width": None if tokens is None else tokens.shape[-1],
            "vector_width": None if vector is None else vector.shape[-1],
            "concat_channels": 0 if concat is None else concat.shape[1],
        }
        for name, value in got.items():
            if getattr(self, name) != value:
                raise ValueError(
                    f"backbone.{name} is {getattr(self, name)}, but the conditioner gives {value}; make them agree"
                )


def time_features(t: Tensor, width: int) -> Tensor:
    """Sinusoidal features of times `(B,)` in [0, 1], `(B, width)`."""
    return sinusoidal(t * TIME_STEPS - 1, width)


def embedding_mlp(width: int, out_width: int) -> nn.Sequential:
    """Two layers from a vector to an embedding that residual blocks take."""
    return nn.Sequential(nn.Linear(width, out_width), nn.SiLU(), nn.Linear(out_width, out_width))


class Stage(nn.Module):
    """A residual block, then attention where there is one."""

    def __init__(self, residual: ResidualBlock, attention: nn.Module | None) -> None:
        super().__init__()
        self.residual = residual
        self.attention = attention

    def forward(self, x: Tensor, embedding: Tensor, condition: Condition) -> Tensor:
        """Return a map of the block for x `(B, C, h, w)` and the time embedding `(B, D)`."""
        x = self.residual(x, embedding)
        if isinstance(self.attention, MapTransformer):
            return self.attention(x, condition.tokens, condition.mask)
        return x if self.attention is None else self.attention(x)


class Level(nn.Module):
    """The stages at one resolution and `resample`, the change to the next; None: there is none."""

    def __init__(self, stages: list[Stage], resample: nn.Module | None) -> None:
        super().__init__()
        self.stages = nn.ModuleList(stages)
        self.resample = resample


def descend(levels: nn.ModuleList, x: Tensor, embedding: Tensor, condition: Condition) -> Iterator[Tensor]:
    """The map after each stage and each change of resolution on the way down; the last is what the middle gets."""
    for level in levels:
        assert isinstance(level, Level)
        for stage in level.stages:
            x = stage(x, embedding, condition)
            yield x
        if level.resample is not None:
            x = level.resample(x, embedding)
            yield x


@dataclass(frozen=True, kw_only=True)
class Parts:
    """Makes the parts of one U-Net, or of one half of it. The options are those of UNet.

    Raises ValueError where they do not go together.
    """

    channels: int
    multipliers: Sequence[int]
    blocks: int
    attention_levels: Sequence[int]
    heads: int | None = None
    head_channels: int | None = None
    context_width: int | None = None
    depth: int = 1
    scale_shift: bool = False
    residual_resampling: bool = False
    dropout: float = 0.0
    groups: int = 32

    def __post_init__(self) -> None:
        check_groups(self.groups, [self.channels, *self.widths])
        check_levels(self.attention_levels, len(self.widths))
        if (self.heads is None) == (self.head_channels is None):
            raise ValueError(
                f"give heads or head_channels, one of them; got heads={self.heads}, head_channels={self.head_channels}"
            )

    @property
    def widths(self) -> list[int]:
        """Channels of each level."""
        return [self.channels * multiplier for multiplier in self.multipliers]

    @property
    def factor(self) -> int:
        """By which the way down divides a side."""
        return 2 ** (len(self.multipliers) - 1)

    @property
    def time_width(self) -> int:
        """Width of the time embedding."""
        return 4 * self.channels

    def down(self) -> nn.ModuleList:
        """The levels of the way down."""
        levels = nn.ModuleList()
        current = self.channels
        for index, width in enumerate(self.widths):
            befores = [current] + [width] * (self.blocks - 1)
            stages = [self._stage(before, index) for before in befores]
            levels.append(Level(stages, self._downsample(width) if index < len(self.widths) - 1 else None))
            current = width
        return levels

    def middle(self) -> nn.ModuleList:
        """Two stages at the last resolution, the first with attention."""
        width = self.widths[-1]
        first = Stage(self._residual(width, width), self._attention(width))
        return nn.ModuleList([first, Stage(self._residual(width, width), None)])

    def up(self) -> nn.ModuleList:
        """The levels of the way up, the last resolution first; each stage also takes a map of the way down."""
        levels, skips = nn.ModuleList(), self._skips()
        current = self.widths[-1]
        for index in range(len(self.widths) - 1, -1, -1):
            stages = []
            for _ in range(self.blocks + 1):
                stages.append(self._stage(current + skips.pop(), index))
                current = self.widths[index]
            levels.append(Level(stages, self._upsample(current) if index else None))
        return levels

    def _attention(self, width: int) -> nn.Module:
        """Of a map to itself, and to tokens where there are some."""
        heads = self.heads if self.heads is not None else width // (self.head_channels or width)
        if self.context_width is None:
            return MapAttention(width, heads, groups=self.groups, eps=1e-5, zero_init=True)
        return MapTransformer(width, heads, self.context_width, depth=self.depth, groups=self.groups)

    def _skips(self) -> list[int]:
        """Channels of the maps that the way down leaves, in its order."""
        skips = [self.channels]
        for index, width in enumerate(self.widths):
            skips += [width] * (self.blocks + (index < len(self.widths) - 1))
        return skips

    def _stage(self, before: int, index: int) -> Stage:
        after = self.widths[index]
        return Stage(self._residual(before, after), self._attention(after) if index in self.attention_levels else None)

    def _residual(self, before: int, after: int, resample: nn.Module | None = None) -> ResidualBlock:
        return ResidualBlock(
            before,
            after,
            embedding_width=self.time_width,
            scale_shift=self.scale_shift,
            resample=resample,
            dropout=self.dropout,
            groups=self.groups,
            zero_init=True,
        )

    def _downsample(self, width: int) -> nn.Module:
        return self._residual(width, width, nn.AvgPool2d(2)) if self.residual_resampling else Downsample(width)

    def _upsample(self, width: int) -> nn.Module:
        if self.residual_resampling:
            return self._residual(width, width, nn.Upsample(scale_factor=2.0))
        return Upsample(width)
