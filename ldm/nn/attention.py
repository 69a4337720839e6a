"""Attention over sequences and over feature maps."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Attention(nn.Module):
    """Multi-head attention of a sequence to a context, or to itself where no context is given.

    Args:
        width: Channels of the sequence.
        heads: Number of heads.
        head_width: Channels of each head; None: width / heads.
        context_width: Channels of the context; None: `width`.
        bias: Whether the projections to queries, keys and values have a bias.

    Raises:
        ValueError: Where `head_width` is None and `heads` does not divide `width`.

    References:
        Vaswani et al., 2017, section 3.2, arXiv:1706.03762.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        head_width: int | None = None,
        context_width: int | None = None,
        bias: bool = False,
    ) -> None:
        super().__init__()
        if head_width is None and width % heads:
            raise ValueError(f"width {width} is not a multiple of heads {heads}; choose heads that divide it")
        inner = (head_width or width // heads) * heads
        self.heads = heads
        self.query = nn.Linear(width, inner, bias=bias)
        self.key = nn.Linear(context_width or width, inner, bias=bias)
        self.value = nn.Linear(context_width or width, inner, bias=bias)
        self.out = nn.Linear(inner, width)

    def forward(self, x: Tensor, context: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """Attend from a sequence to a context, or to itself.

        Args:
            x: Sequence `(B, N, width)`, which gives the queries.
            context: Sequence `(B, M, context_width)`, which gives keys and values; None: `x`.
            mask: `(B, M)`, True where the context may be attended to; None: everywhere.

        Returns:
            `(B, N, width)`.
        """
        context = x if context is None else context
        query, key, value = (
            layer(source).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer, source in ((self.query, x), (self.key, context), (self.value, context))
        )
        bias = None if mask is None else mask[:, None, None, :]
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        out: Tensor = self.out(attended.transpose(1, 2).flatten(2))
        return out


class GEGLU(nn.Module):
    """Gated GELU: a * gelu(b), where a and b are the two halves of one linear projection.

    Args:
        width: Channels of the input.
        hidden: Channels of the result.

    References:
        Shazeer, 2020, arXiv:2002.05202.
    """

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.project = nn.Linear(width, 2 * hidden)

    def forward(self, x: Tensor) -> Tensor:
        """Map `(..., width)` to `(..., hidden)`."""
        projected: Tensor = self.project(x)
        value, gate = projected.chunk(2, dim=-1)
        return value * F.gelu(gate)


class TransformerBlock(nn.Module):
    """Pre-norm transformer block: self-attention, cross-attention to tokens, gated feed-forward.

    Args:
        width: Channels of the sequence.
        heads: Heads of both attentions.
        context_width: Channels of the tokens.

    References:
        Rombach et al., 2022, appendix E.2.2, arXiv:2112.10752.
    """

    def __init__(self, width: int, heads: int, context_width: int) -> None:
        super().__init__()
        self.norm_self = nn.LayerNorm(width)
        self.attend_self = Attention(width, heads)
        self.norm_cross = nn.LayerNorm(width)
        self.attend_cross = Attention(width, heads, context_width=context_width)
        self.norm_feed = nn.LayerNorm(width)
        self.feed = nn.Sequential(GEGLU(width, 4 * width), nn.Linear(4 * width, width))

    def forward(self, x: Tensor, context: Tensor, mask: Tensor | None) -> Tensor:
        """Apply the block.

        Args:
            x: Sequence `(B, N, width)`.
            context: Tokens `(B, M, context_width)`.
            mask: `(B, M)`, True where tokens may be attended to; None: everywhere.

        Returns:
            `(B, N, width)`.
        """
        x = x + self.attend_self(self.norm_self(x))
        x = x + self.attend_cross(self.norm_cross(x), context, mask)
        out: Tensor = x + self.feed(self.norm_feed(x))
        return out


class MapAttention(nn.Module):
    """Self-attention between all places of a feature map, added to the map.

    Args:
        channels: Channels of the map.
        heads: Heads of the attention.
        groups: Groups of the group norm before the attention.
        eps: Epsilon of the group norm.
        zero_init: Whether the last projection starts at zero, so that the module starts as the identity.

    References:
        Dhariwal & Nichol, 2021, section 3, arXiv:2105.05233.
    """

    def __init__(
        self, channels: int, heads: int = 1, *, groups: int = 32, eps: float = 1e-6, zero_init: bool = False
    ) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups, channels, eps=eps)
        self.attend = Attention(channels, heads, bias=True)
        if zero_init:
            nn.init.zeros_(self.attend.out.weight)
            nn.init.zeros_(self.attend.out.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map `(B, channels, H, W)` to the same shape."""
        sequence = self.norm(x).flatten(2).transpose(1, 2)
        out: Tensor = x + self.attend(sequence).transpose(1, 2).unflatten(2, x.shape[2:])
        return out


class AttentionPool(nn.Module):
    """Pool a feature map to a vector: the mean of all places attends to all places and to itself.

    It has no positional embedding, so that maps may be of any size.

    Args:
        channels: Channels of the map and length of the vector.
        heads: Heads of the attention.

    References:
        Radford et al., 2021, section 2.4, arXiv:2103.00020; Dhariwal & Nichol, 2021, section 4, arXiv:2105.05233.
    """

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.attend = Attention(channels, heads, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        """Map `(B, channels, H, W)` to `(B, channels)`."""
        sequence = x.flatten(2).transpose(1, 2)
        mean = sequence.mean(1, keepdim=True)
        pooled: Tensor = self.attend(mean, torch.cat([mean, sequence], dim=1)).squeeze(1)
        return pooled


class MapTransformer(nn.Module):
    """Transformer blocks over all places of a feature map, which attend to tokens; their result is added to the map.

    The last projection starts at zero, so that the module starts as the identity.

    Args:
        channels: Channels of the map.
        heads: Heads of each attention.
        context_width: Channels of the tokens.
        depth: Number of transformer blocks.
        groups: Groups of the group norm before them.

    References:
        Rombach et al., 2022, section 3.3 and appendix E.2.2, arXiv:2112.10752.
    """

    def __init__(self, channels: int, heads: int, context_width: int, *, depth: int = 1, groups: int = 32) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups, channels, eps=1e-6)
        self.into = nn.Linear(channels, channels)
        self.blocks = nn.ModuleList(TransformerBlock(channels, heads, context_width) for _ in range(depth))
        self.out = nn.Linear(channels, channels)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor, context: Tensor, mask: Tensor | None) -> Tensor:
        """Apply the blocks.

        Args:
            x: Map `(B, channels, H, W)`.
            context: Tokens `(B, M, context_width)`.
            mask: `(B, M)`, True where tokens may be attended to; None: everywhere.

        Returns:
            `(B, channels, H, W)`.
        """
        sequence = self.into(self.norm(x).flatten(2).transpose(1, 2))
        for block in self.blocks:
            sequence = block(sequence, context, mask)
        out: Tensor = x + self.out(sequence).transpose(1, 2).unflatten(2, x.shape[2:])
        return out


def check_heads(heads: int | None, head_channels: int | None, widths: Sequence[int]) -> None:
    """Check that either a number of heads or their channels are given, and that there is at least one head.

    Args:
        heads: Number of heads; None: as many as have `head_channels`.
        head_channels: Channels of each head; None: what `heads` makes of the width.
        widths: Channels of the maps with attention.

    Raises:
        ValueError: If both or none is given, or a head has more channels than a map.
    """
    if (heads is None) == (head_channels is None):
        raise ValueError(f"give heads or head_channels, one of them; got heads={heads}, head_channels={head_channels}")
    if head_channels is not None and head_channels > min(widths):
        raise ValueError(
            f"head_channels={head_channels} is more than the {min(widths)} channels of a level with attention; give at most "
            f"{min(widths)}"
        )
