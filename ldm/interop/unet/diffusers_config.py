"""The config.json of a U-Net of diffusers, and our options, both ways."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

CONDITIONED, UNCONDITIONED = "UNet2DConditionModel", "UNet2DModel"
"""Names of the classes: with tokens to attend to, and without."""

VERSION = "0.30.0"
"""The version of diffusers whose config.json is written."""

FIXED: Mapping[str, Any] = {
    "center_input_sample": False,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "downsample_padding": 1,
    "mid_block_scale_factor": 1,
    "act_fn": "silu",
    "norm_eps": 1e-5,
    "time_embedding_type": "positional",
    "conv_in_kernel": 3,
    "conv_out_kernel": 3,
    "resnet_out_scale_factor": 1.0,
    "attention_type": "default",
    "add_attention": True,
    "mid_block_type": "UNetMidBlock2DCrossAttn",
}
"""Keys that can only have one value here, which is also theirs where a config leaves the key out."""

READ = (
    "in_channels",
    "out_channels",
    "block_out_channels",
    "layers_per_block",
    "down_block_types",
    "up_block_types",
    "attention_head_dim",
    "num_attention_heads",
    "cross_attention_dim",
    "transformer_layers_per_block",
    "use_linear_projection",
    "norm_num_groups",
    "attn_norm_num_groups",
    "resnet_time_scale_shift",
    "downsample_type",
    "upsample_type",
    "class_embed_type",
    "projection_class_embeddings_input_dim",
)
"""Keys that say how the network is built."""

IGNORED = ("sample_size", "dropout", "upcast_attention", "num_train_timesteps", "addition_embed_type_num_heads")
"""Keys that change nothing of a finished network."""

ATTENDING = {
    CONDITIONED: ("CrossAttnDownBlock2D", "CrossAttnUpBlock2D"),
    UNCONDITIONED: ("AttnDownBlock2D", "AttnUpBlock2D"),
}
"""Kinds of levels with attention, down and up."""

PLAIN = ("DownBlock2D", "UpBlock2D")
"""Kinds of levels without attention, down and up."""

RESIDUAL = ("ResnetDownsampleBlock2D", "ResnetUpsampleBlock2D")
"""The same, where residual blocks change the resolution."""


def unet_options(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of our U-Net.

    Args:
        config: The config.json of a UNet2DConditionModel or UNet2DModel.

    Raises:
        ValueError: If ours cannot be that; the error names the key.
    """
    kind = config.get("_class_name", CONDITIONED)
    if kind not in ATTENDING:
        raise ValueError(f"_class_name={kind} is none of {', '.join(ATTENDING)}")
    _check_keys(config)
    widths = list(config.get("block_out_channels", (320, 640, 1280, 1280)))
    if any(width % widths[0] for width in widths):
        raise ValueError(f"block_out_channels={widths}: all must be multiples of the first")
    levels, resampled = _levels(config, kind, len(widths))
    tokens = config.get("cross_attention_dim", 1280) if kind == CONDITIONED else None
    groups = config.get("norm_num_groups", 32)
    if config.get("attn_norm_num_groups") not in (None, groups):
        raise ValueError(f"attn_norm_num_groups={config['attn_norm_num_groups']} must be norm_num_groups={groups}")
    return {
        "in_channels": config.get("in_channels", 4),
        "out_channels": config.get("out_channels", 4),
        "model_channels": widths[0],
        "channel_mult": [width // widths[0] for width in widths],
        "blocks": _single(config, "layers_per_block", 2),
        "attention_levels": levels,
        "context_width": tokens,
        "vector_width": _vector(config),
        "depth": _single(config, "transformer_layers_per_block", 1),
        "scale_shift": _choice(config, "resnet_time_scale_shift", {"default": False, "scale_shift": True}),
        "residual_resampling": resampled,
        "groups": groups,
        **_heads(config, kind, widths),
    }


def uses_linear(config: Mapping[str, Any]) -> bool:
    """Return whether the projections around transformer blocks are linear layers."""
    return bool(config.get("use_linear_projection", False))


def unet_config(options: Mapping[str, Any], *, sample_size: int, linear: bool) -> dict[str, Any]:
    """Return the config.json of a U-Net.

    Args:
        options: Options of our `UNet`.
        sample_size: Height and width of the latents of training.
        linear: Whether the projections around transformer blocks are written as linear layers.

    Raises:
        ValueError: If theirs cannot be that; the error names our option.
    """
    if options.get("pool_tokens") and options.get("vector_width") is not None:
        raise ValueError(
            "backbone.pool_tokens=true with a vector_width has no place in a U-Net of diffusers, which embeds one vector"
        )
    conditioned = options.get("context_width") is not None
    kind = CONDITIONED if conditioned else UNCONDITIONED
    if options.get("vector_width") is not None and not conditioned:
        raise ValueError("backbone.vector_width without context_width has no place in a U-Net of diffusers")
    multipliers = list(options.get("channel_mult", (1, 2, 4, 4)))
    model_channels = options.get("model_channels", 320)
    if multipliers[0] != 1:
        raise ValueError(
            f"backbone.channel_mult={multipliers} begins with another multiplier than 1, which diffusers cannot"
        )
    widths = [model_channels * multiplier for multiplier in multipliers]
    attends = [level in options.get("attention_levels", (0, 1, 2)) for level in range(len(widths))]
    residual = bool(options.get("residual_resampling"))
    if residual and conditioned:
        raise ValueError("backbone.residual_resampling=true with tokens has no place in a U-Net of diffusers")
    heads, each = options.get("heads"), options.get("head_channels")
    config: dict[str, Any] = {
        "_class_name": kind,
        "_diffusers_version": VERSION,
        **{key: value for key, value in FIXED.items() if _belongs(key, conditioned)},
        "sample_size": sample_size,
        "in_channels": options["in_channels"] + options.get("concat_channels", 0),
        "out_channels": options.get("out_channels") or options["in_channels"],
        "block_out_channels": widths,
        "layers_per_block": options.get("blocks", 2),
        "down_block_types": _kinds(kind, attends, residual, way=0),
        "up_block_types": _kinds(kind, attends, residual, way=1)[::-1],
        "norm_num_groups": options.get("groups", 32),
        "resnet_time_scale_shift": "scale_shift" if options.get("scale_shift") else "default",
    }
    if not conditioned:
        resample = "resnet" if residual else "conv"
        each = _channels_per_head(
            heads, each, [width for width, yes in zip(widths, attends, strict=True) if yes] + widths[-1:]
        )
        return {
            **config,
            "attention_head_dim": each,
            "attn_norm_num_groups": options.get("groups", 32),
            "downsample_type": resample,
            "upsample_type": resample,
        }
    config |= {
        "cross_attention_dim": options["context_width"],
        "transformer_layers_per_block": options.get("depth", 1),
        "attention_head_dim": heads if heads is not None else [max(1, width // int(each or width)) for width in widths],
        "use_linear_projection": linear,
    }
    if (width := options["context_width"] if options.get("pool_tokens") else options.get("vector_width")) is not None:
        config |= {"class_embed_type": "projection", "projection_class_embeddings_input_dim": width}
    return config


def _belongs(key: str, conditioned: bool) -> bool:
    """Return whether a fixed key is one of the class."""
    only_conditioned = (
        "mid_block_type",
        "conv_in_kernel",
        "conv_out_kernel",
        "resnet_out_scale_factor",
        "attention_type",
    )
    return key != "add_attention" if conditioned else key not in only_conditioned


def _kinds(kind: str, attends: Sequence[bool], residual: bool, *, way: int) -> list[str]:
    """Return the kinds of the levels, from the highest resolution down; way: 0 is the down path, 1 the up path."""
    last = len(attends) - 1
    return [
        ATTENDING[kind][way] if yes else (RESIDUAL[way] if residual and level < last else PLAIN[way])
        for level, yes in enumerate(attends)
    ]


def _channels_per_head(heads: int | None, each: int | None, widths: Sequence[int]) -> int:
    """Return the channels of each head, which a UNet2DModel has alike at all levels.

    Raises:
        ValueError: If they are not.
    """
    found = {each} if each is not None else {width // (heads or 1) for width in widths}
    if len(found) > 1:
        raise ValueError(
            f"backbone.heads={heads} gives heads of {sorted(map(int, found))} channels, and a UNet2DModel of diffusers has heads "
            "of the same number at all levels"
        )
    return int(found.pop() or 1)


def _check_keys(config: Mapping[str, Any]) -> None:
    """Raise ValueError for keys that ask for what ours cannot be."""
    for key, value in config.items():
        known = key in READ or key in IGNORED or key.startswith("_")
        if key in FIXED:
            allowed = [FIXED[key], *([None] if key in ("downsample_padding", "mid_block_type") else [])]
            if key == "mid_block_type":
                allowed.append("UNetMidBlock2D")
            if value not in allowed:
                raise ValueError(f"{key}={value!r} of the U-Net's config.json cannot be; here it is {FIXED[key]!r}")
        elif not known and value not in (None, False):
            raise ValueError(f"{key}={value!r} of the U-Net's config.json is not known here")


def _levels(config: Mapping[str, Any], kind: str, count: int) -> tuple[list[int], bool]:
    """Return the levels with attention, and whether residual blocks change the resolution."""
    down = list(config.get("down_block_types", [ATTENDING[kind][0]] * 3 + [PLAIN[0]]))
    up = list(config.get("up_block_types", [PLAIN[1]] + [ATTENDING[kind][1]] * 3))[::-1]
    if not len(down) == len(up) == count:
        raise ValueError(f"{len(down)} down_block_types, {len(up)} up_block_types and {count} block_out_channels")
    for way, kinds in enumerate((down, up)):
        if strange := sorted(set(kinds) - {ATTENDING[kind][way], PLAIN[way], RESIDUAL[way]}):
            raise ValueError(f"levels of the kind {', '.join(strange)} are not known here")
    levels = [level for level, name in enumerate(down) if name == ATTENDING[kind][0]]
    if levels != [level for level, name in enumerate(up) if name == ATTENDING[kind][1]]:
        raise ValueError(f"down_block_types={down} and up_block_types={up[::-1]} attend at different levels")
    types = {config.get("downsample_type", "conv"), config.get("upsample_type", "conv")}
    resampled = RESIDUAL[0] in down or types == {"resnet"}
    plain_between = any(name == PLAIN[0] for name in down[:-1])
    if len(types) > 1 or (RESIDUAL[0] in down and (plain_between or (levels and types != {"resnet"}))):
        raise ValueError("the resolution is changed by residual blocks at some levels, and by convolutions at others")
    if types == {"resnet"} and plain_between:
        raise ValueError(
            "downsample_type=resnet with DownBlock2D changes the resolution by convolutions at some levels"
        )
    return levels, resampled


def _heads(config: Mapping[str, Any], kind: str, widths: Sequence[int]) -> dict[str, int]:
    """Return `heads` or `head_channels`. In a UNet2DConditionModel, `attention_head_dim` is the number of heads."""
    given = config.get("attention_head_dim", 8)
    if kind == UNCONDITIONED:
        return {"heads": 1} if given is None else {"head_channels": int(given)}
    heads = config.get("num_attention_heads") or given
    if isinstance(heads, int):
        return {"heads": heads}
    each = {width // count for width, count in zip(widths, heads, strict=True)}
    if len(set(heads)) == 1:
        return {"heads": heads[0]}
    if len(each) > 1:
        raise ValueError(
            f"attention_head_dim={list(heads)} gives neither the same heads nor heads of the same channels"
        )
    return {"head_channels": each.pop()}


def _vector(config: Mapping[str, Any]) -> int | None:
    """Return the width of a vector that is embedded beside the timestep."""
    kind = config.get("class_embed_type")
    if kind not in (None, "projection"):
        raise ValueError(f"class_embed_type={kind!r} of the U-Net's config.json is not known here")
    return config.get("projection_class_embeddings_input_dim") if kind else None


def _single(config: Mapping[str, Any], key: str, usual: int) -> int:
    """Return a number that may be written once for all levels, or for each."""
    value = config.get(key, usual)
    values = set(value) if isinstance(value, Sequence) else {value}
    if len(values) != 1:
        raise ValueError(f"{key}={value} of the U-Net's config.json differs from level to level, which ours does not")
    return int(values.pop())


def _choice(config: Mapping[str, Any], key: str, choices: Mapping[str, Any]) -> Any:
    value = config.get(key, next(iter(choices)))
    if value not in choices:
        raise ValueError(f"{key}={value!r} of the U-Net's config.json is none of {', '.join(choices)}")
    return choices[value]
