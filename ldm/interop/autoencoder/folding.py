"""Folding of the shift and the scale of latents into the layers around them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ldm.interop.autoencoder.network import check_scale, complete, is_quantised


def fold(weights: Mapping[str, Tensor], options: Mapping[str, Any], *, keep: float = 1.0) -> dict[str, Tensor]:
    """Return weights that give the same latents and images with no shift, and with one scale for all channels.

    The encoder's last layer and the decoder's first are convolutions with a kernel of one place, which can hold both exactly:
    means are shifted and scaled, log-variances get 2 log(scale), codes are shifted and scaled too, and the decoder's layer
    undoes it.
    Log-variances are limited to [-30, 20] afterwards as before, so only those within 2 |log(scale)| of a limit differ.

    Args:
        weights: The state dict of the autoencoder.
        options: The options of ConvAutoencoder, or its config node.
        keep: The scale that remains, for formats that hold one number.

    Returns:
        The state dict with the changed tensors; the others are the same. Each has the type it had.

    Raises:
        ValueError: If a scale is not positive, or if channels with a codebook have different scales, which makes other codes the
            nearest.
    """
    check_scale(keep)
    shift, scale = weights["shift"].double(), weights["scale"].double()
    for value in scale.tolist():
        check_scale(value)
    quantised = is_quantised(complete(options))
    if quantised and not torch.equal(scale, scale[:1].expand_as(scale)):
        raise ValueError(
            f"the scales of the channels, {[round(value, 5) for value in scale.tolist()]}, cannot be folded into an autoencoder "
            "with a codebook: other codes would be the nearest, whatever the weights; a format that holds one scale needs the "
            "same in all channels. Use the model here (sample.py), or train one with an autoencoder without a codebook, whose "
            "scales are folded exactly (autoencoder=kl_f4, say), or with a published one with a codebook, whose channels share "
            "a scale (autoencoder.ckpt=FILE); a LoRA alone is written in any case (format=lora)"
        )
    kept = torch.full_like(weights["scale"], keep)
    factor = scale / kept.double()
    if not shift.any() and bool((factor == 1).all()):
        return dict(weights)
    changed = {
        "shift": torch.zeros_like(shift),
        "scale": kept,
        **_decoding(weights, shift, factor),
    }
    if quantised:
        changed |= _encoding(weights, shift, factor)
        changed["regularizer.codebook.weight"] = (weights["regularizer.codebook.weight"].double() - shift) * factor
    else:
        ones, zeros = torch.ones_like(factor), torch.zeros_like(factor)
        changed |= _encoding(weights, torch.cat([shift, zeros]), torch.cat([factor, ones]))
        changed["to_moments.bias"] += torch.cat([zeros, 2 * factor.log()])
    return {**weights, **{name: tensor.to(weights[name].dtype) for name, tensor in changed.items()}}


def _encoding(weights: Mapping[str, Tensor], shift: Tensor, factor: Tensor) -> dict[str, Tensor]:
    """Return the encoder's last layer, whose outputs are shifted and scaled."""
    weight, bias = weights["to_moments.weight"].double(), weights["to_moments.bias"].double()
    return {"to_moments.weight": weight * factor[:, None, None, None], "to_moments.bias": (bias - shift) * factor}


def _decoding(weights: Mapping[str, Tensor], shift: Tensor, factor: Tensor) -> dict[str, Tensor]:
    """Return the decoder's first layer, which undoes shift and scale of its inputs."""
    weight, bias = weights["from_raw.weight"].double(), weights["from_raw.bias"].double()
    return {"from_raw.weight": weight / factor[:, None, None], "from_raw.bias": bias + weight.flatten(1) @ shift}
