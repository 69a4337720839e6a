"""Merging of LoRA files into the weights of a model.

References:
    Hu et al., 2021, LoRA, equation 3 and section 4.1, arXiv:2106.09685.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Size, Tensor

from ldm.config import class_name
from ldm.interop.conditioner.beside import FIRST_LAYER, text_and_map
from ldm.interop.export.model import BACKBONE
from ldm.interop.lora.chosen import ChosenLoRA
from ldm.interop.lora.layers import TOKEN_LAYERS, layers_of
from ldm.interop.lora.names import SECOND_TEXT, TEXT, UNET
from ldm.interop.lora.reading import LayerChange, LayerPlace, LoRAFile, read_lora
from ldm.interop.translation import listed

log = logging.getLogger(__name__)

VERSIONS: Mapping[int, str] = {768: "Stable Diffusion 1", 1024: "Stable Diffusion 2", 2048: "Stable Diffusion XL"}
"""Channels of the tokens -> the version of Stable Diffusion that has so many."""


def merged(node: Mapping[str, Any], weights: Mapping[str, Tensor], loras: Sequence[ChosenLoRA]) -> dict[str, Tensor]:
    """Return the weights of a model with LoRA files merged into them: W + scale (alpha / rank) B A, in fp32.

    Args:
        node: The config node of the model.
        weights: Its state dict.
        loras: The files, each with its scale.

    Raises:
        ValueError: If a file cannot be read, or does not belong to such a model; each of its tensors must have a place there.
    """
    found = dict(weights)
    layers = layers_of(node, weights) if loras else {}
    for one in loras:
        lora = read_lora(one.file)
        _check_base(lora, layers, weights, node)
        _check_shapes(lora, layers, weights)
        for place, change in lora.changes.items():
            name = layers[place]
            product = change.matrices.times(one.scale * change.strength).view_as(found[name])
            if name == BACKBONE + FIRST_LAYER:
                product = _of_first_layer(product, node)
            found[name] = found[name].float() + product
        counts = {network: sum(place.network == network for place in lora.changes) for network in (UNET, TEXT)}
        log.info(
            "%s: %d layers of the U-Net and %d of the text encoder are changed, with scale %g",
            *(one.file, *counts.values(), one.scale),
        )
    return found


def _of_first_layer(change: Tensor, node: Mapping[str, Any]) -> Tensor:
    """Return the change of the U-Net's first layer with the input channels in our order, where a map is an input, too."""
    beside = text_and_map(node["conditioner"])
    if beside is None:
        return change
    return beside[1].to_ours({FIRST_LAYER: change}, node["autoencoder"]["latent_channels"])[FIRST_LAYER]


def _check_shapes(lora: LoRAFile, layers: Mapping[LayerPlace, str], weights: Mapping[str, Tensor]) -> None:
    """Raise ValueError where the matrices of a layer have other shapes than its weight."""
    wrong = [
        f"{change.name} {tuple(change.matrices.down.shape)} and its second matrix {tuple(change.matrices.up.shape)} for a weight "
        f"{tuple(weights[layers[place]].shape)}"
        for place, change in lora.changes.items()
        if not _fits(change, weights[layers[place]].shape)
    ]
    if wrong:
        raise ValueError(
            f"{lora.file} does not fit the layers of this model: {listed(wrong, '; ', most=3)}{_base(lora)}; give a LoRA that "
            "was trained on such a model"
        )


def _fits(change: LayerChange, weight: Size) -> bool:
    """Return whether the product of matrices has the shape of a weight; a 1 x 1 convolution counts as a linear layer."""
    down, up = change.matrices.down.shape, change.matrices.up.shape
    kernels = [() if kernel.numel() == 1 else tuple(kernel) for kernel in (down[2:], weight[2:])]
    return (up[0], down[1]) == tuple(weight[:2]) and kernels[0] == kernels[1]


def _check_base(
    lora: LoRAFile, layers: Mapping[LayerPlace, str], weights: Mapping[str, Tensor], node: Mapping[str, Any]
) -> None:
    """Raise ValueError where a LoRA belongs to another kind of model, or changes layers that a model does not have."""
    theirs = _width({place: change.matrices.down for place, change in lora.changes.items()})
    ours = _width({place: weights[name] for place, name in layers.items()})
    if any(place.network == SECOND_TEXT for place in lora.changes):
        theirs = 2048
    if None not in (theirs, ours) and theirs != ours:
        raise ValueError(
            f"{lora.file} is a LoRA for {_version(theirs)}, and the model that is sampled is {_version(ours)}; give a LoRA and "
            "a model that belong together"
        )
    left = {place: change.name for place, change in lora.changes.items() if place not in layers}
    if any(place.network == TEXT for place in left) and not any(place.network == TEXT for place in layers):
        example = next(name for place, name in left.items() if place.network == TEXT)
        raise ValueError(
            f"{lora.file} changes CLIP's text encoder ({example}), and the {class_name(node['conditioner'])} of this model "
            "has none; give a LoRA of the U-Net alone, or a model that reads text with CLIP"
        )
    if left:
        raise ValueError(
            f"{len(left)} of {len(lora.changes)} layers that {lora.file} changes are none of this model: "
            f"{listed(sorted(left.values()))}{_base(lora)}; give a LoRA that was trained on such a model"
        )


def _width(tensors: Mapping[LayerPlace, Tensor]) -> int | None:
    """Return the channels of the tokens that layers read, whose weights or matrices A these are; None: none is there."""
    for network, end in TOKEN_LAYERS.items():
        for place, tensor in tensors.items():
            if place.network == network and place.layer.endswith(end):
                return tensor.shape[1]
    return None


def _version(width: int | None) -> str:
    """Return the name of a model whose tokens have a given number of channels."""
    name = VERSIONS.get(width or 0)
    return f"a model whose tokens have {width} channels" if name is None else f"{name}, whose tokens have {width}"


def _base(lora: LoRAFile) -> str:
    """Return the base model that the metadata name, as the end of a message."""
    return "" if lora.version is None else f" (its metadata says that it is for {lora.version})"
