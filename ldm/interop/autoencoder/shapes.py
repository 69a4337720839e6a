"""The options of an autoencoder, read from the names and shapes of its tensors in another layout."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import count
from typing import Any

from torch import Size

from ldm.interop.autoencoder.names import AutoencoderNames
from ldm.interop.autoencoder.network import kl_node, vq_node

GROUPS = 32
"""Groups of the group norms, which no shape shows; the layouts that have no config always have so many."""


def options_by_shapes(names: AutoencoderNames, shapes: Mapping[str, Size]) -> dict[str, Any]:
    """Return the options of ConvAutoencoder; what shapes do not show is as in the LDM paper's models.

    Args:
        names: The names of the layout.
        shapes: Their name of a tensor -> its shape; there may be others.

    Raises:
        ValueError: If it cannot be an autoencoder of ours.
    """
    _refuse_others(names, shapes)
    channels, seen = _axis(shapes, "encoder.conv_in.weight", 0), _axis(shapes, "encoder.conv_in.weight", 1)
    made = _axis(shapes, "decoder.conv_out.weight", 0)
    if (seen, made) != (3, 3):
        raise ValueError(f"it encodes images of {seen} channels and decodes to {made}; ours have 3")
    levels = [f"encoder.{names.levels['encoder']}.{level}" for level in _counted(names, shapes)]
    widths = [_axis(shapes, f"{level}.{names.residuals}.0.conv1.weight", 0) for level in levels]
    if any(width % channels for width in widths):
        raise ValueError(
            f"its levels have {widths} channels and its first convolution has {channels}; ours are multiples of the latter"
        )
    if any(width % GROUPS for width in [channels, *widths]):
        raise ValueError(f"its levels have {widths} channels, which group norms of {GROUPS} groups do not divide")
    first = f"{levels[0]}.{names.residuals}"
    query = names.within_attention["attend.query"]
    latent_channels, codes = _bottleneck(shapes)
    return {
        "channels": channels,
        "channel_mult": [width // channels for width in widths],
        "blocks": next(place for place in count() if f"{first}.{place}.conv1.weight" not in shapes),
        "latent_channels": latent_channels,
        "attention_levels": [
            index for index, level in enumerate(levels) if f"{level}.{names.attentions}.0.{query}.weight" in shapes
        ],
        "middle_attention": f"encoder.{names.middle[1]}.{query}.weight" in shapes,
        "groups": GROUPS,
        "regularizer": kl_node() if codes is None else vq_node(codes, latent_channels),
    }


def _refuse_others(names: AutoencoderNames, shapes: Mapping[str, Size]) -> None:
    embedded = [name for name in shapes if name.startswith("encoder.time") or ".temb" in name]
    if embedded:
        raise ValueError(f"its blocks take an embedding of time, like {embedded[0]}, and ours do not")
    linear = [name for name in shapes if ".to_qkv." in name]
    if linear:
        raise ValueError(f"its attention is linear, like {linear[0]}, and ours is not")
    for name in ("quant_conv.weight", "post_quant_conv.weight"):
        if name not in shapes:
            raise ValueError(
                f"it has no {name}: newer autoencoders leave this layer out; give them in the layout of diffusers, with config"
            )


def _counted(names: AutoencoderNames, shapes: Mapping[str, Size]) -> range:
    """Return the indices of the levels of the encoder.

    Raises:
        ValueError: If there are none.
    """
    first = f"encoder.{names.levels['encoder']}.{{}}.{names.residuals}.0.conv1.weight"
    levels = next(level for level in count() if first.format(level) not in shapes)
    if not levels:
        raise ValueError(f"missing: {first.format(0)}")
    return range(levels)


def _bottleneck(shapes: Mapping[str, Size]) -> tuple[int, int | None]:
    """Return the channels of raw latents, and the number of codes; None: there is no codebook.

    Raises:
        ValueError: If the layers between encoder and decoder are not ours.
    """
    moments, features = _axis(shapes, "quant_conv.weight", 0), _axis(shapes, "quant_conv.weight", 1)
    projected, raw = _axis(shapes, "post_quant_conv.weight", 0), _axis(shapes, "post_quant_conv.weight", 1)
    if (features, projected) != (moments, raw):
        raise ValueError(
            f"quant_conv maps {features} channels to {moments} and post_quant_conv {raw} to {projected}: z_channels and "
            "embed_dim of its config differ, and in our network they are one number"
        )
    if codebook := shapes.get("quantize.embedding.weight"):
        if len(codebook) != 2:
            raise ValueError(f"quantize.embedding.weight has the shape {tuple(codebook)}, which is no list of codes")
        codes, length = codebook
        if not moments == raw == length:
            raise ValueError(f"quant_conv gives {moments} channels, codes have {length}, post_quant_conv takes {raw}")
        return raw, codes
    if moments != 2 * raw:
        raise ValueError(
            f"quant_conv gives {moments} channels and post_quant_conv takes {raw}: that is neither mean and log-variance nor "
            "vectors for a codebook, quantize.embedding.weight, which it has not"
        )
    return raw, None


def _axis(shapes: Mapping[str, Size], name: str, axis: int) -> int:
    if name not in shapes:
        raise ValueError(f"missing: {name}")
    if len(shapes[name]) != 4:
        raise ValueError(f"{name} has the shape {tuple(shapes[name])}; a convolution's has 4 axes")
    return shapes[name][axis]
