"""The layers of a model that a LoRA can change, by the names that other programs give them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from ldm.config import class_name
from ldm.interop.export.model import BACKBONE, has_linear_projections, unet_node
from ldm.interop.lora.names import TEXT, UNET
from ldm.interop.lora.reading import LayerPlace
from ldm.interop.unet import diffusers as unet_layout

WEIGHT = ".weight"

CLIP_LAYER = "encoder.encoder.layers.0.self_attn.q_proj.weight"
"""A tensor by which a conditioner with CLIP's text encoder is known."""

TOKEN_LAYERS: Mapping[str, str] = {UNET: "attn2_to_k", TEXT: "self_attn_q_proj"}
"""Network -> the end of the name of a layer that reads tokens: the width of the first such layer says whose version it is."""


def layers_of(node: Mapping[str, Any], weights: Mapping[str, Tensor]) -> dict[LayerPlace, str]:
    """Return layer -> the name of its weight in the model, of all layers that a LoRA can change.

    Args:
        node: The config node of the model.
        weights: Its state dict.

    Raises:
        ValueError: If it is no latent diffusion model, its backbone no U-Net, or one that other programs have no names for.
    """
    if "denoiser" not in node:
        raise ValueError(
            f"a LoRA changes a latent diffusion model, and this is a {class_name(node)}; give ckpt= such a model, or leave "
            "lora out"
        )
    backbone = unet_node(node)
    layout = unet_layout.translation(backbone, linear=has_linear_projections(backbone))
    theirs = {tie.theirs: BACKBONE + tie.ours[0] for tie in layout.ties}
    found = {LayerPlace(UNET, _flat(name)): own for name, own in theirs.items() if name.endswith(WEIGHT)}
    encoders = [prefix for prefix in _conditioners(node["conditioner"]) if prefix + CLIP_LAYER in weights]
    for prefix in encoders[:1]:
        inner = f"{prefix}encoder."
        names = [name for name in weights if name.startswith(inner) and name.endswith(WEIGHT)]
        found |= {LayerPlace(TEXT, _flat(name.removeprefix(inner))): name for name in names}
    return {place: name for place, name in found.items() if weights[name].ndim > 1}


def _flat(name: str) -> str:
    """Return the name of a layer, whose weight has this name, without dots."""
    return name.removesuffix(WEIGHT).replace(".", "_")


def _conditioners(node: Mapping[str, Any], prefix: str = "conditioner.") -> Iterator[str]:
    """Yield the prefix of the tensor names of each conditioner, also of conditioners inside another."""
    if class_name(node) == "HuggingFaceConditioner":
        yield prefix
    parts = node.get("parts", {})
    named = parts.items() if isinstance(parts, Mapping) else enumerate(parts)
    for name, part in named:
        yield from _conditioners(part, f"{prefix}parts.{name}.")
