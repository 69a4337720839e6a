"""Autoencoders in the layout of CompVis: its AutoencoderKL and VQModel, without the prefix "first_stage_model."."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Size

from ldm.interop.autoencoder.names import AutoencoderNames
from ldm.interop.autoencoder.network import complete, empty, learned
from ldm.interop.autoencoder.shapes import GROUPS, options_by_shapes
from ldm.interop.change import Pointwise
from ldm.interop.translation import Translation

NAMES = AutoencoderNames(
    layout="CompVis",
    levels={"encoder": "down", "decoder": "up"},
    from_image=True,
    residuals="block",
    attentions="attn",
    resample={"encoder": "downsample.conv", "decoder": "upsample.conv"},
    middle=("mid.block_1", "mid.attn_1", "mid.block_2"),
    norm_out="norm_out",
    within_residual={
        "norm1": "norm1",
        "conv1": "conv1",
        "norm2": "norm2",
        "conv2": "conv2",
        "skip": "nin_shortcut",
    },
    within_attention={
        "norm": "norm",
        "attend.query": "q",
        "attend.key": "k",
        "attend.value": "v",
        "attend.out": "proj_out",
    },
    projection=Pointwise(2),
)

UNUSED = {
    "loss.perceptual_loss.": "the perceptual network of its training loss",
    "loss.discriminator.": "the discriminator of its training loss",
    "loss.logvar": "the weight of its training loss",
    "loss.": "a part of its training loss",
    "model_ema.decay": "bookkeeping of the average of weights",
    "model_ema.num_updates": "bookkeeping of the average of weights",
    "model_ema.": "the average of weights, with which its code validates, but neither encodes nor decodes",
}
"""Beginning of a name -> why such tensors are not read; the first that fits counts."""


def is_autoencoder(names: Iterable[str]) -> bool:
    """Return whether names of tensors are those of an autoencoder of this layout; there may be others."""
    known = set(names)
    halves = {"encoder.conv_in.weight", "decoder.conv_out.weight"} <= known
    return halves and any(name.startswith("encoder.down.") for name in known)


def options(shapes: Mapping[str, Size]) -> dict[str, Any]:
    """Return the options of ConvAutoencoder, as names and shapes of tensors show them; see `options_by_shapes`."""
    return options_by_shapes(NAMES, shapes)


def translation(options: Mapping[str, Any]) -> Translation:
    """Return the table of names; it has no shift and no scale, which `folding.fold` puts into the weights.

    Args:
        options: The options of ConvAutoencoder, or its config node.

    Raises:
        ValueError: If the layout cannot hold the autoencoder.
    """
    groups = complete(options)["groups"]
    if groups != GROUPS:
        raise ValueError(f"group norms of the CompVis layout have {GROUPS} groups, and these have {groups}")
    network = empty(options)
    return Translation(learned(network), NAMES.stems(network), layout=NAMES.layout)


def dropped(names: Iterable[str]) -> dict[str, str]:
    """Return the names of tensors that are left out on purpose, among others, and why."""
    found = {name: [why for start, why in UNUSED.items() if name.startswith(start)] for name in names}
    return {name: reasons[0] for name, reasons in found.items() if reasons}
