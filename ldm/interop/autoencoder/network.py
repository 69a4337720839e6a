"""Our convolutional autoencoder as other layouts can hold it: its options, its learned tensors, the statistics of latents."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ldm.autoencoder.convolutional import ConvAutoencoder
from ldm.autoencoder.kl import KLRegularizer
from ldm.autoencoder.regularizer import Regularizer
from ldm.autoencoder.vq import VQRegularizer

TARGET = "ldm.autoencoder.convolutional.ConvAutoencoder"
KL = "ldm.autoencoder.kl.KLRegularizer"
VQ = "ldm.autoencoder.vq.VQRegularizer"
REGULARIZERS: dict[str, type[Regularizer[Any]]] = {KL: KLRegularizer, VQ: VQRegularizer}
"""The regularisers that other layouts know, by `_target_`."""

DEFAULTS: dict[str, Any] = {
    name: parameter.default
    for name, parameter in inspect.signature(ConvAutoencoder).parameters.items()
    if parameter.default is not inspect.Parameter.empty
}
"""Options of ConvAutoencoder that need not be given."""


def complete(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return all options of an autoencoder, the defaults too, without `_target_`.

    Args:
        options: The options of ConvAutoencoder, or its config node.

    Raises:
        ValueError: If it is another autoencoder, has another regulariser, or one that other layouts cannot hold.
    """
    target = options.get("_target_", TARGET)
    if target != TARGET:
        raise ValueError(f"{target} has no counterpart in other layouts; only {TARGET} has")
    regularizer = options["regularizer"]
    if regularizer.get("_target_") not in REGULARIZERS:
        raise ValueError(f"{regularizer.get('_target_')} has no counterpart in other layouts; {KL} and {VQ} have")
    if regularizer.get("quantized_latents"):
        raise ValueError(
            "quantized_latents=true: other programs encode to latents before quantisation, so that theirs would be others; "
            "train with autoencoder.network.regularizer.quantized_latents=false"
        )
    return DEFAULTS | {name: value for name, value in options.items() if name != "_target_"}


def kl_node() -> dict[str, Any]:
    """Return the config node of the KL regulariser, with the weight of the LDM paper's models."""
    return {"_target_": KL, "weight": 1e-6, "log_variance": 0.0}


def vq_node(codes: int, latent_channels: int) -> dict[str, Any]:
    """Return the config node of the VQ regulariser, with the weights of the LDM paper's models.

    Args:
        codes: Number of codes.
        latent_channels: Length of a code.
    """
    return {
        "_target_": VQ,
        "codes": codes,
        "latent_channels": latent_channels,
        "codebook_weight": 0.25,
        "commitment_weight": 1.0,
        "revive_after": None,
        "quantized_latents": False,
    }


def empty(options: Mapping[str, Any]) -> ConvAutoencoder:
    """Return the autoencoder on the meta device, where it needs no memory; see `complete` for the options and for errors."""
    whole = complete(options)
    inner = whole.pop("regularizer")
    with torch.device("meta"):
        regularizer = REGULARIZERS[inner["_target_"]](
            **{name: value for name, value in inner.items() if name != "_target_"}
        )
        return ConvAutoencoder(regularizer, **whole)


def learned(network: ConvAutoencoder) -> nn.Module:
    """Return the modules that other layouts have, under the names they have here.

    Shift, scale and statistics_count are kept elsewhere, and the counters of unused codes nowhere.
    """
    parts: dict[str, nn.Module] = {
        name: getattr(network, name) for name in ("encoder", "decoder", "to_moments", "from_raw")
    }
    if isinstance(network.regularizer, VQRegularizer):
        parts["regularizer"] = nn.ModuleDict({"codebook": network.regularizer.codebook})
    return nn.ModuleDict(parts)


def node_of(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the config node of an autoencoder of its options."""
    return {"_target_": TARGET, **options}


def is_quantised(options: Mapping[str, Any]) -> bool:
    """Return whether an autoencoder has a codebook."""
    return bool(options["regularizer"]["_target_"] == VQ)


def default_scale(options: Mapping[str, Any]) -> float:
    """Return the scale of latents where nothing says it: 1 with a codebook, 0.18215 for the shape of Stable Diffusion's.

    Autoencoders of this shape with another scale look the same, like the one of SDXL with 0.13025; give their scale.

    Raises:
        ValueError: If no scale is customary.
    """
    if is_quantised(options):
        return 1.0
    channels, factor = options["latent_channels"], 2 ** (len(options["channel_mult"]) - 1)
    if (channels, factor) == (4, 8):
        return 0.18215
    raise ValueError(
        f"nothing says how latents of this KL autoencoder are scaled (f={factor}, {channels} channels; only for f=8 with 4 is "
        "0.18215 customary); give scale=, the number that raw latents were multiplied with when its diffusion model was trained"
    )


def check_scale(scale: float) -> float:
    """Return the scale of latents.

    Raises:
        ValueError: If it is not a positive number.
    """
    if not (math.isfinite(scale) and scale > 0):
        raise ValueError(f"scale={scale} is not a positive number; latents are multiplied with it, like 0.18215")
    return scale


def statistics(
    channels: int, scale: float | Sequence[float], shift: float | Sequence[float] = 0.0
) -> dict[str, Tensor]:
    """Return the buffers of an autoencoder by which `latent = (raw - shift) * scale`, and it counts as finished.

    Args:
        channels: Channels C of the raw latent.
        scale: One number, or one for each channel.
        shift: One number, or one for each channel.

    Raises:
        ValueError: If there is not one number for each channel, or if a scale is not positive.
    """
    values = {"scale": torch.tensor(scale, dtype=torch.float64), "shift": torch.tensor(shift, dtype=torch.float64)}
    for name, value in values.items():
        if value.shape not in ((), (channels,)):
            raise ValueError(f"{name} has {value.numel()} numbers; give one, or one for each of {channels} channels")
    for value in values["scale"].flatten().tolist():
        check_scale(value)
    buffers = {name: value.expand(channels).float().clone() for name, value in values.items()}
    return buffers | {"statistics_count": torch.ones((), dtype=torch.long)}
