"""The conditional U-Net of the LDM paper."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ldm.backbone.base import Backbone
from ldm.batch import Condition
from ldm.nn.attention import MapAttention, MapTransformer, check_heads
from ldm.nn.blocks import Downsample, ResidualBlock, Upsample, check_groups, check_levels
from ldm.nn.embedding import sinusoidal

TIME_STEPS = 1000
"""Number of discrete steps; t in [0, 1] enters the network as t * 1000 - 1, so t = (i + 1) / 1000 is LDM's step i."""


class UNet(Backbone):
    """A U-Net of residual blocks with a timestep embedding, skip connections, self-attention and cross-attention.

    Args:
        in_channels: Channels of x_t.
        out_channels: Channels of the prediction; None: those of x_t.
        concat_channels: Channels of a map that is concatenated to x_t (mask, low-resolution image); 0: there is none.
        model_channels: Channels of the first level.
        channel_mult: Channels of each level in units of `model_channels`.
        blocks: Residual blocks per level of the down path; the up path has one more.
        attention_levels: Indices of the levels with attention; 0 has the resolution of the latent.
        heads: Number of attention heads; give this or `head_channels`.
        head_channels: Channels of each attention head; give this or `heads`.
        context_width: Width of the tokens for cross-attention; None: only self-attention.
        vector_width: Width of a vector that is projected and added to the timestep embedding; None: there is none.
        pool_tokens: Also add an embedding of the mean token to the timestep embedding (the LDM paper does not).
        depth: Transformer blocks at each place of attention.
        scale_shift: The timestep embedding scales and shifts the norms, instead of being added.
        residual_resampling: Change the resolution inside residual blocks, instead of by a convolution.
        dropout: Dropout rate inside residual blocks, in [0, 1).
        groups: Groups of the group norms; they divide the channels of each level.

    Raises:
        ValueError: If the options do not go together.

    References:
        Rombach et al., 2022, section 3.3, appendix E.2, arXiv:2112.10752; Dhariwal & Nichol, 2021, arXiv:2105.05233.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int | None = None,
        *,
        concat_channels: int = 0,
        model_channels: int = 320,
        channel_mult: Sequence[int] = (1, 2, 4, 4),
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
        parts = UNetParts(
            model_channels=model_channels,
            channel_mult=channel_mult,
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
        self.downsampling_factor = parts.downsampling_factor
        self.model_channels = model_channels
        self.out_channels = out_channels or in_channels
        self.deepest_channels = parts.widths[-1]
        self.concat_channels = concat_channels
        self.context_width = context_width
        self.vector_width = vector_width
        self.time = embedding_mlp(model_channels, parts.time_width)
        if pool_tokens and context_width is None:
            raise ValueError("pool_tokens needs tokens; give a context_width too")
        self.pool = embedding_mlp(context_width, parts.time_width) if pool_tokens and context_width else None
        self.vector = None if vector_width is None else embedding_mlp(vector_width, parts.time_width)
        self.conv_in = nn.Conv2d(in_channels + concat_channels, model_channels, 3, padding=1)
        self.down = parts.down()
        self.middle = parts.middle()
        self.up = parts.up()
        self.norm_out = nn.GroupNorm(groups, model_channels, eps=1e-5)
        self.conv_out = nn.Conv2d(model_channels, self.out_channels, 3, padding=1)
        nn.init.zeros_(self.conv_out.weight)
        nn.init.zeros_(self.conv_out.bias)  # type: ignore[arg-type]

    def forward(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """Return the prediction, `(B, out_channels, h, w)`; see `Backbone.forward`."""
        self._check(condition)
        x = x_t if condition.concat is None else torch.cat([x_t, condition.concat], dim=1)
        embedding = self.time(time_features(t, self.model_channels))
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
            assert isinstance(level, UNetLevel)
            for stage in level.stages:
                x = stage(torch.cat([x, skips.pop()], dim=1), embedding, condition)
            if level.resample is not None:
                x = level.resample(x, embedding)
        prediction: Tensor = self.conv_out(F.silu(self.norm_out(x)))
        return prediction

    @property
    def deepest(self) -> nn.Module:
        """The last stage of the middle."""
        return self.middle[-1]

    def _check(self, condition: Condition) -> None:
        """Raise ValueError if the condition has other parts than the network was built for."""
        tokens, vector, concat = condition.tokens, condition.vector, condition.concat
        got = {
            "context_width": None if tokens is None else tokens.shape[-1],
            "vector_width": None if vector is None else vector.shape[-1],
            "concat_channels": 0 if concat is None else concat.shape[1],
        }
        for name, value in got.items():
            if (own := getattr(self, name)) != value:
                wanted = "null" if value is None else value
                raise ValueError(
                    f"backbone.{name} is {own}, but the conditioner gives {value}; set backbone.{name}={wanted}, or give a "
                    "conditioner that the backbone was made for"
                )


def time_features(t: Tensor, width: int) -> Tensor:
    """Return sinusoidal features, `(B, width)`, of timesteps `(B,)` in [0, 1]."""
    return sinusoidal(t * TIME_STEPS - 1, width)


def embedding_mlp(width: int, out_width: int) -> nn.Sequential:
    """Return two layers that turn a vector, `(B, width)`, into the embedding of residual blocks, `(B, out_width)`."""
    return nn.Sequential(nn.Linear(width, out_width), nn.SiLU(), nn.Linear(out_width, out_width))


class UNetBlock(nn.Module):
    """A residual block, followed by attention if `attention` is not None.

    Args:
        residual: The residual block.
        attention: Self-attention, or a transformer with cross-attention.
    """

    def __init__(self, residual: ResidualBlock, attention: nn.Module | None) -> None:
        super().__init__()
        self.residual = residual
        self.attention = attention

    def forward(self, x: Tensor, embedding: Tensor, condition: Condition) -> Tensor:
        """Return a map of the same resolution, `(B, C', h, w)`, from x `(B, C, h, w)` and the timestep embedding."""
        x = self.residual(x, embedding)
        if isinstance(self.attention, MapTransformer):
            x = self.attention(x, condition.tokens, condition.mask)
        elif self.attention is not None:
            x = self.attention(x)
        return x


class UNetLevel(nn.Module):
    """The stages at one resolution.

    Args:
        stages: The stages, in their order.
        resample: Changes the resolution to that of the next level; None: there is no next level.
    """

    def __init__(self, stages: list[UNetBlock], resample: nn.Module | None) -> None:
        super().__init__()
        self.stages = nn.ModuleList(stages)
        self.resample = resample


def descend(levels: nn.ModuleList, x: Tensor, embedding: Tensor, condition: Condition) -> Iterator[Tensor]:
    """Yield the map after each stage and each change of resolution on the down path; the last one enters the middle."""
    for level in levels:
        assert isinstance(level, UNetLevel)
        for stage in level.stages:
            x = stage(x, embedding, condition)
            yield x
        if level.resample is not None:
            x = level.resample(x, embedding)
            yield x


@dataclass(frozen=True, kw_only=True)
class UNetParts:
    """A builder of the parts of a U-Net, or of one half of it. Its options are those of UNet.

    Raises:
        ValueError: If the options do not go together.
    """

    model_channels: int
    channel_mult: Sequence[int]
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
        """Check the options."""
        check_groups(self.groups, [self.model_channels, *self.widths])
        check_levels(self.attention_levels, len(self.widths))
        check_heads(self.heads, self.head_channels, [self.widths[level] for level in (*self.attention_levels, -1)])

    @property
    def widths(self) -> list[int]:
        """Channels of each level."""
        return [self.model_channels * multiplier for multiplier in self.channel_mult]

    @property
    def downsampling_factor(self) -> int:
        """Downsampling factor of the down path."""
        factor: int = 2 ** (len(self.channel_mult) - 1)
        return factor

    @property
    def time_width(self) -> int:
        """Width of the timestep embedding."""
        return 4 * self.model_channels

    def down(self) -> nn.ModuleList:
        """Return the levels of the down path."""
        levels = nn.ModuleList()
        current = self.model_channels
        for index, width in enumerate(self.widths):
            befores = [current] + [width] * (self.blocks - 1)
            stages = [self._stage(before, index) for before in befores]
            levels.append(UNetLevel(stages, self._downsample(width) if index < len(self.widths) - 1 else None))
            current = width
        return levels

    def middle(self) -> nn.ModuleList:
        """Return two stages at the lowest resolution, the first with attention."""
        width = self.widths[-1]
        first = UNetBlock(self._residual(width, width), self._attention(width))
        return nn.ModuleList([first, UNetBlock(self._residual(width, width), None)])

    def up(self) -> nn.ModuleList:
        """Return the levels of the up path, lowest resolution first; each stage also takes a map of the down path."""
        levels, skips = nn.ModuleList(), self._skips()
        current = self.widths[-1]
        for index in range(len(self.widths) - 1, -1, -1):
            stages = []
            for _ in range(self.blocks + 1):
                stages.append(self._stage(current + skips.pop(), index))
                current = self.widths[index]
            levels.append(UNetLevel(stages, self._upsample(current) if index else None))
        return levels

    def _attention(self, width: int) -> nn.Module:
        """Return self-attention, or a transformer with cross-attention if there are tokens."""
        heads = self.heads if self.heads is not None else width // (self.head_channels or width)
        if self.context_width is None:
            return MapAttention(width, heads, groups=self.groups, eps=1e-5, zero_init=True)
        return MapTransformer(width, heads, self.context_width, depth=self.depth, groups=self.groups)

    def _skips(self) -> list[int]:
        """Return the channels of the maps that the down path leaves for the up path, in its order."""
        skips = [self.model_channels]
        for index, width in enumerate(self.widths):
            skips += [width] * (self.blocks + (index < len(self.widths) - 1))
        return skips

    def _stage(self, before: int, index: int) -> UNetBlock:
        """Return a stage of the level `index` that takes `before` channels."""
        after = self.widths[index]
        return UNetBlock(
            self._residual(before, after), self._attention(after) if index in self.attention_levels else None
        )

    def _residual(self, before: int, after: int, resample: nn.Module | None = None) -> ResidualBlock:
        """Return a residual block from `before` to `after` channels."""
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
        """Return the module that halves the resolution."""
        return self._residual(width, width, nn.AvgPool2d(2)) if self.residual_resampling else Downsample(width)

    def _upsample(self, width: int) -> nn.Module:
        """Return the module that doubles the resolution."""
        if self.residual_resampling:
            return self._residual(width, width, nn.Upsample(scale_factor=2.0))
        return Upsample(width)
