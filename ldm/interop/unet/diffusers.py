"""The U-Net in the layout of diffusers: UNet2DConditionModel, and UNet2DModel where there are no tokens."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any, ClassVar

from torch import Tensor

from ldm.interop.translation import Stem, Translation, stems_inside
from ldm.interop.unet.names import StagePlace, UNetNames, empty_unet
from ldm.nn.attention import MapAttention

ATTENTION: Mapping[str, str] = {
    "norm": "group_norm",
    "attend.query": "to_q",
    "attend.key": "to_k",
    "attend.value": "to_v",
    "attend.out": "to_out.0",
}
"""Modules of self-attention: ours -> theirs."""

OLD: Mapping[str, str] = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
"""Names of the modules of self-attention in old files -> those of today."""


class DiffusersUNetNames(UNetNames):
    """The names of diffusers: each level has lists of residual blocks, attentions and changes of resolution.

    Args:
        levels: See `UNetNames`; so are blocks and linear.
    """

    layout = "diffusers"
    top: ClassVar[Mapping[str, str]] = {
        "time.0": "time_embedding.linear_1",
        "time.2": "time_embedding.linear_2",
        "vector.0": "class_embedding.linear_1",
        "vector.2": "class_embedding.linear_2",
        "pool.0": "class_embedding.linear_1",
        "pool.2": "class_embedding.linear_2",
        "conv_in": "conv_in",
        "norm_out": "conv_norm_out",
        "conv_out": "conv_out",
    }
    within_residual: ClassVar[Mapping[str, str]] = {
        "norm1": "norm1",
        "conv1": "conv1",
        "embed": "time_emb_proj",
        "norm2": "norm2",
        "conv2": "conv2",
        "skip": "conv_shortcut",
    }

    def down(self, level: int, stage: int) -> StagePlace:
        """See `UNetNames.down`."""
        return StagePlace(f"down_blocks.{level}.resnets.{stage}", f"down_blocks.{level}.attentions.{stage}")

    def middle(self, stage: int) -> StagePlace:
        """See `UNetNames.middle`."""
        return StagePlace(f"mid_block.resnets.{stage}", f"mid_block.attentions.{stage}")

    def up(self, level: int, stage: int) -> StagePlace:
        """See `UNetNames.up`."""
        return StagePlace(f"up_blocks.{level}.resnets.{stage}", f"up_blocks.{level}.attentions.{stage}")

    def downsample(self, level: int, *, residual: bool) -> str:
        """See `UNetNames.downsample`."""
        return f"down_blocks.{level}.downsamplers.0" + ("" if residual else ".conv")

    def upsample(self, level: int, *, residual: bool, attends: bool) -> str:
        """See `UNetNames.upsample`."""
        return f"up_blocks.{level}.upsamplers.0" + ("" if residual else ".conv")

    def self_attention(self, attention: MapAttention, ours: str, theirs: str) -> Iterator[Stem]:
        """See `UNetNames.self_attention`."""
        return stems_inside(ATTENTION, ours, theirs)


def is_unet(names: Collection[str]) -> bool:
    """Return whether tensors are those of a U-Net in this layout."""
    return "down_blocks.0.resnets.0.time_emb_proj.weight" in names


def translation(options: Mapping[str, Any], *, linear: bool) -> Translation:
    """Return the table of the tensors of a U-Net.

    Args:
        options: Options of `UNet`.
        linear: Whether the projections around transformer blocks are linear layers (`use_linear_projection`).

    Raises:
        ValueError: If the layout has no place for a part of it.
    """
    network = empty_unet(options)
    return DiffusersUNetNames(len(network.down), 0, linear=linear).translation(network)


def renamed(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors by the names of today; old files of self-attention have others, and shapes of convolutions."""
    found: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        match = re.fullmatch(r"(.*\.attentions\.\d+)\.(query|key|value|proj_attn)\.(weight|bias)", name)
        if match:
            found[f"{match[1]}.{OLD[match[2]]}.{match[3]}"] = tensor.flatten(1) if tensor.ndim > 2 else tensor
        else:
            found[name] = tensor
    return found
