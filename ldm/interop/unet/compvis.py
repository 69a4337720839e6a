"""The U-Net in the layout of CompVis' openaimodel, without the prefix "model.diffusion_model."."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any, ClassVar

from torch import Size

from ldm.interop.change import Fused, Pointwise
from ldm.interop.translation import Stem, Translation, stem
from ldm.interop.unet.names import StagePlace, UNetNames, empty_unet
from ldm.nn.attention import MapAttention


class CompVisUNetNames(UNetNames):
    """CompVis' names: blocks of the down and up path are counted through all levels, changes of resolution among them.

    Args:
        levels: See `UNetNames`; so are blocks and linear.
    """

    layout = "CompVis"
    top: ClassVar[Mapping[str, str]] = {
        "time.0": "time_embed.0",
        "time.2": "time_embed.2",
        "vector.0": "label_emb.0.0",
        "vector.2": "label_emb.0.2",
        "conv_in": "input_blocks.0.0",
        "norm_out": "out.0",
        "conv_out": "out.2",
    }
    within_residual: ClassVar[Mapping[str, str]] = {
        "norm1": "in_layers.0",
        "conv1": "in_layers.2",
        "embed": "emb_layers.1",
        "norm2": "out_layers.0",
        "conv2": "out_layers.3",
        "skip": "skip_connection",
    }

    def down(self, level: int, stage: int) -> StagePlace:
        """See `UNetNames.down`."""
        block = f"input_blocks.{1 + level * (self.blocks + 1) + stage}"
        return StagePlace(f"{block}.0", f"{block}.1")

    def middle(self, stage: int) -> StagePlace:
        """See `UNetNames.middle`."""
        return StagePlace(f"middle_block.{2 * stage}", "middle_block.1")

    def up(self, level: int, stage: int) -> StagePlace:
        """See `UNetNames.up`."""
        block = f"output_blocks.{level * (self.blocks + 1) + stage}"
        return StagePlace(f"{block}.0", f"{block}.1")

    def downsample(self, level: int, *, residual: bool) -> str:
        """See `UNetNames.downsample`."""
        block = f"input_blocks.{(level + 1) * (self.blocks + 1)}.0"
        return block if residual else f"{block}.op"

    def upsample(self, level: int, *, residual: bool, attends: bool) -> str:
        """See `UNetNames.upsample`."""
        block = f"output_blocks.{level * (self.blocks + 1) + self.blocks}.{2 if attends else 1}"
        return block if residual else f"{block}.conv"

    def self_attention(self, attention: MapAttention, ours: str, theirs: str) -> Iterator[Stem]:
        """See `UNetNames.self_attention`."""
        three = [f"{ours}.attend.{part}" for part in ("query", "key", "value")]
        yield stem(f"{ours}.norm", f"{theirs}.norm")
        yield Stem(three, f"{theirs}.qkv", Fused(heads=attention.attend.heads, axes=1))
        yield stem(f"{ours}.attend.out", f"{theirs}.proj_out", Pointwise(1))


def is_unet(names: Collection[str]) -> bool:
    """Return whether tensors are those of a U-Net in this layout."""
    return "input_blocks.0.0.weight" in names and "out.2.weight" in names


def uses_linear(shapes: Mapping[str, Size]) -> bool:
    """Return whether the projections around transformer blocks are linear layers, as in Stable Diffusion 2."""
    return any(len(shape) == 2 for name, shape in shapes.items() if name.endswith(".proj_in.weight"))


def translation(options: Mapping[str, Any], *, linear: bool) -> Translation:
    """Return the table of the tensors of a U-Net.

    Args:
        options: Options of `UNet`, heads among them.
        linear: See `uses_linear`.

    Raises:
        ValueError: If the layout has no place for a part of it.
    """
    network = empty_unet(options)
    names = CompVisUNetNames(len(network.down), len(network.down[0].stages), linear=linear)  # type: ignore[arg-type]
    return names.translation(network)


def options(shapes: Mapping[str, Size]) -> dict[str, Any]:
    """Return the options of a U-Net that names and shapes of its tensors tell.

    Heads are among them only where projections are linear, and 64 divides the channels: each head then has 64 channels, as in
    Stable Diffusion 2.

    Args:
        shapes: Name -> shape, without a prefix.

    Raises:
        ValueError: If it is no U-Net of ours.
    """
    if "label_emb.weight" in shapes:
        raise ValueError("the U-Net embeds classes itself (label_emb.weight), which ours does not")
    if not is_unet(shapes):
        raise ValueError("no U-Net in the layout of CompVis: input_blocks.0.0.weight or out.2.weight is missing")
    model_channels, in_channels = shapes["input_blocks.0.0.weight"][:2]
    entries = len(_blocks(shapes, "output_blocks"))
    upsamplers = {
        name.split(".")[1]
        for name in shapes
        if re.fullmatch(r"output_blocks\.\d+\.[12]\.(conv|in_layers\.0)\.weight", name)
    }
    levels = 1 + len(upsamplers)
    if entries % levels or entries // levels < 2:
        raise ValueError(f"{entries} output_blocks cannot be those of {levels} levels")
    if levels == 1 and (empty := sorted(set(range(entries)) - _blocks(shapes, "input_blocks"))):
        raise ValueError(
            f"input_blocks {empty} have no tensors, and no output_blocks change the resolution: some are missing, or the U-Net "
            "resamples without convolutions (conv_resample=False), which ours does not"
        )
    per_level = entries // levels
    firsts = [f"input_blocks.{1 + level * per_level}" for level in range(levels)]
    widths = [_length(shapes, f"{first}.0.out_layers.3.weight") for first in firsts]
    if any(width % model_channels for width in widths):
        raise ValueError(f"levels of {widths} channels are no multiples of the first {model_channels}")
    tokens = next((shape[1] for name, shape in shapes.items() if name.endswith("attn2.to_k.weight")), None)
    embedded = _length(shapes, "input_blocks.1.0.emb_layers.1.weight")
    vector = shapes.get("label_emb.0.0.weight")
    levels_with = [level for level, first in enumerate(firsts) if f"{first}.1.norm.weight" in shapes]
    attending = [widths[level] for level in (*levels_with, -1)]
    return {
        "in_channels": in_channels,
        "out_channels": shapes["out.2.weight"][0],
        "model_channels": model_channels,
        "channel_mult": [width // model_channels for width in widths],
        "blocks": per_level - 1,
        "attention_levels": levels_with,
        "context_width": tokens,
        "vector_width": None if vector is None else vector[1],
        "depth": _depth(shapes),
        "scale_shift": embedded == 2 * widths[0],
        "residual_resampling": not any(name.endswith(".op.weight") for name in shapes) and levels > 1,
        **({"head_channels": 64} if uses_linear(shapes) and not any(width % 64 for width in attending) else {}),
    }


def _depth(shapes: Mapping[str, Size]) -> int:
    """Return the number of transformer blocks at each place of attention. Raises ValueError if they differ."""
    blocks: dict[str, set[str]] = {}
    for name in shapes:
        if match := re.match(r"(.*)\.transformer_blocks\.(\d+)\.", name):
            blocks.setdefault(match[1], set()).add(match[2])
    places = {len(found): place for place, found in blocks.items()}
    if len(places) > 1:
        counts = " and ".join(f"{place} has {count} transformer blocks" for count, place in sorted(places.items()))
        raise ValueError(f"{counts}, as in Stable Diffusion XL; ours has the same number everywhere")
    return next(iter(places), 1)


def _blocks(shapes: Mapping[str, Size], kind: str) -> set[int]:
    """Return the numbers of the blocks of a path that have tensors."""
    return {int(match[1]) for name in shapes if (match := re.match(rf"{kind}\.(\d+)\.", name))}


def _length(shapes: Mapping[str, Size], name: str) -> int:
    """Return the first length of a tensor. Raises ValueError if it is missing."""
    if name not in shapes:
        raise ValueError(f"no U-Net in the layout of CompVis: {name} is missing")
    return shapes[name][0]
