"""The paper's conditional U-Net."""

from __future__ import annotations

from collections.abc import Sequence

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
    pool_tokens          also embed the mean token and add it to the time embedding (the paper does not)
    depth                transformer blocks at each place of attention
    scale_shift          time scales and shifts the norms instead of being added
    residual_resampling  change resolution inside residual blocks instead of by a convolution

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
        pool_tokens: bool = False,
        depth: int = 1,
        scale_shift: bool = False,
        residual_resampling: bool = False,
        dropout: float = 0.0,
        groups: int = 32,
    ) -> None:
        super().__init__()
        widths = [channels * multiplier for multiplier in multipliers]
        check_groups(groups, [channels, *widths])
        check_levels(attention_levels, len(widths))
        if (heads is None) == (head_channels is None):
            raise ValueError(
                f"give heads or head_channels, one of them; got heads={heads}, head_channels={head_channels}"
            )

        time_width = 4 * channels
        self.factor = 2 ** (len(widths) - 1)
        self.channels = channels
        self.out_channels = out_channels or in_channels
        self.concat_channels = concat_channels
        self.context_width = context_width
        self.time = embedding_mlp(channels, time_width)
        if pool_tokens and context_width is None:
            raise ValueError("pool_tokens needs tokens; give a context_width too")
        self.pool = embedding_mlp(context_width, time_width) if pool_tokens and context_width else None

        def residual(before: int, after: int, resample: nn.Module | None = None) -> ResidualBlock:
            return ResidualBlock(
                before,
                after,
                embedding_width=time_width,
                scale_shift=scale_shift,
                resample=resample,
                dropout=dropout,
                groups=groups,
                zero_init=True,
            )

        def attention(width: int) -> nn.Module:
            count = heads if heads is not None else width // (head_channels or width)
            if context_width is None:
                return MapAttention(width, count, groups=groups, eps=1e-5, zero_init=True)
            return MapTransformer(width, count, context_width, depth=depth, groups=groups)

        def stage(before: int, index: int) -> Stage:
            after = widths[index]
            return Stage(residual(before, after), attention(after) if index in attention_levels else None)

        def downsample(width: int) -> nn.Module:
            return residual(width, width, nn.AvgPool2d(2)) if residual_resampling else Downsample(width)

        def upsample(width: int) -> nn.Module:
            return residual(width, width, nn.Upsample(scale_factor=2.0)) if residual_resampling else Upsample(width)

        self.conv_in = nn.Conv2d(in_channels + concat_channels, channels, 3, padding=1)
        last = len(widths) - 1
        skips = [channels]
        self.down = nn.ModuleList()
        for index, width in enumerate(widths):
            stages = []
            for _ in range(blocks):
                stages.append(stage(skips[-1], index))
                skips.append(width)
            if index < last:
                skips.append(width)
            self.down.append(Level(stages, downsample(width) if index < last else None))

        deepest = widths[-1]
        self.middle = nn.ModuleList(
            [Stage(residual(deepest, deepest), attention(deepest)), Stage(residual(deepest, deepest), None)]
        )

        self.up = nn.ModuleList()
        current = deepest
        for index in range(last, -1, -1):
            stages = []
            for _ in range(blocks + 1):
                stages.append(stage(current + skips.pop(), index))
                current = widths[index]
            self.up.append(Level(stages, upsample(current) if index else None))

        self.norm_out = nn.GroupNorm(groups, channels, eps=1e-5)
        self.conv_out = nn.Conv2d(channels, self.out_channels, 3, padding=1)
        nn.init.zeros_(self.conv_out.weight)
        nn.init.zeros_(self.conv_out.bias)  # type: ignore[arg-type]

    def forward(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        self._check(condition)
        x = x_t if condition.concat is None else torch.cat([x_t, condition.concat], dim=1)
        embedding = self.time(sinusoidal(t * TIME_STEPS - 1, self.channels))
        if self.pool is not None:
            embedding = embedding + self.pool(condition.mean_token())
        x = self.conv_in(x)
        skips = [x]
        for level in self.down:
            assert isinstance(level, Level)
            for stage in level.stages:
                x = stage(x, embedding, condition)
                skips.append(x)
            if level.resample is not None:
                x = level.resample(x, embedding)
                skips.append(x)
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
        return self.middle[-1]

    def _check(self, condition: Condition) -> None:
        tokens, concat = condition.tokens, condition.concat
        got = {
            "context_width": None if tokens is None else tokens.shape[-1],
            "concat_channels": 0 if concat is None else concat.shape[1],
        }
        for name, value in got.items():
            if getattr(self, name) != value:
                raise ValueError(
                    f"backbone.{name} is {getattr(self, name)}, but the conditioner gives {value}; make them agree"
                )


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
        x = self.residual(x, embedding)
        if isinstance(self.attention, MapTransformer):
            return self.attention(x, condition.tokens, condition.mask)
        return x if self.attention is None else self.attention(x)


class Level(nn.Module):
    """The stages at one resolution and the change to the next."""

    def __init__(self, stages: list[Stage], resample: nn.Module | None) -> None:
        super().__init__()
        self.stages = nn.ModuleList(stages)
        self.resample = resample
