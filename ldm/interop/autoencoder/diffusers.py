"""Autoencoders in the layout of diffusers: its AutoencoderKL and VQModel, and their config.json."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from ldm.interop.autoencoder.names import AutoencoderNames
from ldm.interop.autoencoder.network import (
    check_scale,
    complete,
    empty,
    is_quantised,
    kl_node,
    learned,
    statistics,
    vq_node,
)
from ldm.interop.change import Same
from ldm.interop.translation import Translation, listed

NAMES = AutoencoderNames(
    layout="diffusers",
    levels={"encoder": "down_blocks", "decoder": "up_blocks"},
    from_image=False,
    residuals="resnets",
    attentions="attentions",
    resample={"encoder": "downsamplers.0.conv", "decoder": "upsamplers.0.conv"},
    middle=("mid_block.resnets.0", "mid_block.attentions.0", "mid_block.resnets.1"),
    norm_out="conv_norm_out",
    within_residual={
        "norm1": "norm1",
        "conv1": "conv1",
        "norm2": "norm2",
        "conv2": "conv2",
        "skip": "conv_shortcut",
    },
    within_attention={
        "norm": "group_norm",
        "attend.query": "to_q",
        "attend.key": "to_k",
        "attend.value": "to_v",
        "attend.out": "to_out.0",
    },
    projection=Same(),
)

CLASSES = ("AutoencoderKL", "VQModel")

SHARED: dict[str, Any] = {
    "in_channels": 3,
    "out_channels": 3,
    "block_out_channels": (64,),
    "down_block_types": ("DownEncoderBlock2D",),
    "up_block_types": ("UpDecoderBlock2D",),
    "layers_per_block": 1,
    "act_fn": "silu",
    "norm_num_groups": 32,
    "mid_block_add_attention": True,
    "sample_size": 32,
    "force_upcast": True,
}
KEYS: dict[str, dict[str, Any]] = {
    "AutoencoderKL": SHARED
    | {
        "latent_channels": 4,
        "scaling_factor": 0.18215,
        "shift_factor": None,
        "latents_mean": None,
        "latents_std": None,
        "use_quant_conv": True,
        "use_post_quant_conv": True,
    },
    "VQModel": SHARED
    | {
        "latent_channels": 3,
        "scaling_factor": 1.0,
        "num_vq_embeddings": 256,
        "vq_embed_dim": None,
        "norm_type": "group",
        "lookup_from_codebook": False,
    },
}
"""Class -> key of its config -> value where the key is missing. Those of diffusers, but for the scaling_factor of VQModel: the
published ones are older than this key, and their latents are not scaled, although diffusers divides them by 0.18215 today."""

OLDER = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
"""Older name of a projection of attention -> its name."""


def is_autoencoder(names: Iterable[str]) -> bool:
    """Return whether names of tensors are those of an autoencoder of this layout; there may be others."""
    known = set(names)
    halves = {"encoder.conv_in.weight", "decoder.conv_out.weight"} <= known
    return halves and any(name.startswith("encoder.down_blocks.") for name in known)


def options(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of ConvAutoencoder for a config.json.

    Layers that `use_quant_conv` and `use_post_quant_conv` leave out are the identity in ours; see `layers_left_out`.

    Raises:
        ValueError: If a key has a value that is not ours; the error names it.
    """
    values = _values(config)
    for key in ("in_channels", "out_channels"):
        _demand(key, values[key], 3)
    if values["act_fn"] not in ("silu", "swish"):
        raise _refusal("act_fn", values["act_fn"], "silu")
    widths = list(values["block_out_channels"])
    channels = widths[0]
    if any(width % channels for width in widths):
        raise _refusal("block_out_channels", widths, f"multiples of the first, {channels}")
    quantised = values["_class_name"] == "VQModel"
    if quantised:
        _demand("norm_type", values["norm_type"], "group")
        _demand("lookup_from_codebook", values["lookup_from_codebook"], False)
        if values["vq_embed_dim"] not in (None, values["latent_channels"]):
            raise _refusal("vq_embed_dim", values["vq_embed_dim"], f"latent_channels, {values['latent_channels']}")
    latent_channels = values["latent_channels"]
    return {
        "channels": channels,
        "channel_mult": [width // channels for width in widths],
        "blocks": values["layers_per_block"],
        "latent_channels": latent_channels,
        "attention_levels": _attention_levels(values),
        "middle_attention": values["mid_block_add_attention"],
        "groups": values["norm_num_groups"],
        "regularizer": vq_node(values["num_vq_embeddings"], latent_channels) if quantised else kl_node(),
    }


def config(
    options: Mapping[str, Any], *, scaling_factor: float, shift_factor: float | None = None, sample_size: int
) -> dict[str, Any]:
    """Return the config.json of an autoencoder. Keys that have the values of diffusers' defaults may be left out.

    Args:
        options: The options of ConvAutoencoder, or its config node.
        scaling_factor: The scale of all channels.
        shift_factor: The shift of all channels; None: there is none.
        sample_size: Height and width of its images in pixels.

    Raises:
        ValueError: If the layout cannot hold the autoencoder, or the shift.
    """
    whole = complete(options)
    quantised = is_quantised(whole)
    widths = [whole["channels"] * multiplier for multiplier in whole["channel_mult"]]
    if whole["channel_mult"][0] != 1:
        raise ValueError(
            f"channel_mult={list(whole['channel_mult'])}: in the layout of diffusers the first level has the channels of the "
            "first convolution, so that the first multiplier is 1"
        )
    if quantised and shift_factor is not None:
        raise ValueError(
            f"shift_factor={shift_factor}: diffusers' VQModel has no such key; fold the shift into the weights"
        )
    kinds = ["Attn" if level in whole["attention_levels"] else "" for level in range(len(widths))]
    made = {
        "_class_name": CLASSES[quantised],
        "in_channels": 3,
        "out_channels": 3,
        "down_block_types": [f"{kind}DownEncoderBlock2D" for kind in kinds],
        "up_block_types": [f"{kind}UpDecoderBlock2D" for kind in reversed(kinds)],
        "block_out_channels": widths,
        "layers_per_block": whole["blocks"],
        "act_fn": "silu",
        "latent_channels": whole["latent_channels"],
        "norm_num_groups": whole["groups"],
        "sample_size": sample_size,
        "scaling_factor": scaling_factor,
    }
    if quantised:
        made |= {"num_vq_embeddings": whole["regularizer"]["codes"], "vq_embed_dim": whole["latent_channels"]}
    if not whole["middle_attention"]:
        made["mid_block_add_attention"] = False
    return made if shift_factor is None else made | {"shift_factor": shift_factor}


def layers_left_out(config: Mapping[str, Any]) -> list[str]:
    """Return those of quant_conv and post_quant_conv that the autoencoder of a config.json does without, like those of FLUX."""
    values = _values(config)
    return [layer for layer in ("quant_conv", "post_quant_conv") if not values.get(f"use_{layer}", True)]


def translation(options: Mapping[str, Any]) -> Translation:
    """Return the table of names; it has no shift and no scale, which the config has, or `folding.fold` puts into the weights.

    Args:
        options: The options of ConvAutoencoder, or its config node.
    """
    network = empty(options)
    return Translation(learned(network), NAMES.stems(network), layout=NAMES.layout)


def renamed(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors by the names of today, where attention may have older ones: query, key, value and proj_attn.

    Their weights are matrices today; in some older files they are convolutions with a kernel of one place.
    """
    return {_name_today(name): _matrix(name, tensor) for name, tensor in weights.items()}


def latent_statistics(config: Mapping[str, Any], *, scale: float | None = None) -> dict[str, Tensor]:
    """Return shift, scale and statistics_count, by which latents are those of pipelines of diffusers.

    With `shift_factor`, they are (raw - shift_factor) * scaling_factor; with `latents_mean` and `latents_std`, they are
    (raw - mean) * scaling_factor / std.

    Args:
        config: The config.json.
        scale: Takes the place of scaling_factor; None: it is as the config has it.

    Raises:
        ValueError: If keys contradict each other.
    """
    values = _values(config)
    factor = check_scale(values["scaling_factor"] if scale is None else scale)
    mean, std, shift = (values.get(key) for key in ("latents_mean", "latents_std", "shift_factor"))
    if (mean is None) != (std is None):
        raise ValueError(f"latents_mean={mean} and latents_std={std}: give both or none")
    if mean is None or std is None:
        return statistics(values["latent_channels"], factor, shift or 0.0)
    if shift is not None:
        raise ValueError(f"shift_factor={shift} and latents_mean={mean} both shift latents; leave one out")
    if len(mean) != values["latent_channels"]:
        raise ValueError(f"latents_mean={mean} is not one number for each of {values['latent_channels']} channels")
    return statistics(len(mean), [factor / deviation for deviation in std], mean)


def _values(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of all keys, with the defaults of the class.

    Raises:
        ValueError: If the class or a key is not known.
    """
    kind = config.get("_class_name")
    if kind not in KEYS:
        raise _refusal("_class_name", kind, " or ".join(CLASSES))
    given = {key: value for key, value in config.items() if not key.startswith("_")}
    if unknown := sorted(set(given) - set(KEYS[kind])):
        raise ValueError(f"{kind} has unknown keys, {listed(unknown)}, which may change what it computes")
    return {"_class_name": kind, **KEYS[kind], **given}


def _attention_levels(values: Mapping[str, Any]) -> list[int]:
    """Return the levels with attention, which must be the same in encoder and decoder."""
    down, up = list(values["down_block_types"]), list(values["up_block_types"])
    levels = [level for level, kind in enumerate(down) if kind.startswith("Attn")]
    count = len(values["block_out_channels"])
    kinds = ["Attn" if level in levels else "" for level in range(count)]
    if down != [f"{kind}DownEncoderBlock2D" for kind in kinds]:
        raise _refusal("down_block_types", down, f"{count} of DownEncoderBlock2D and AttnDownEncoderBlock2D")
    mirrored = [f"{kind}UpDecoderBlock2D" for kind in reversed(kinds)]
    if up != mirrored:
        raise _refusal("up_block_types", up, f"the mirror of down_block_types, {mirrored}")
    return levels


def _demand(key: str, value: Any, ours: Any) -> None:
    if value != ours:
        raise _refusal(key, value, ours)


def _refusal(key: str, value: Any, ours: Any) -> ValueError:
    return ValueError(f"{key}={value} of the config of diffusers cannot be ours, which has {ours}")


def _name_today(name: str) -> str:
    match = re.fullmatch(r"(.*\.attentions\.\d+)\.(query|key|value|proj_attn)\.(weight|bias)", name)
    return name if match is None else f"{match[1]}.{OLDER[match[2]]}.{match[3]}"


def _matrix(name: str, tensor: Tensor) -> Tensor:
    is_projection = re.fullmatch(r".*\.attentions\.\d+\.(?!group_norm).*\.weight", name)
    return tensor.flatten(1) if is_projection and tensor.ndim > 2 and tensor.shape[2:].numel() == 1 else tensor
