"""The config.json of a U-Net of diffusers, and our options, both ways."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ldm.interop.unet.diffusers_keys import ATTENDING, CONDITIONED, FIXED, PLAIN, RESIDUAL, UNCONDITIONED, checked

VERSION = "0.30.0"
"""The version of diffusers whose config.json is written."""

WRITTEN_LATER = "mid_block_type"
"""A key that a UNet2DModel of that version does not have."""


def unet_options(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of our U-Net.

    Args:
        config: The config.json of a UNet2DConditionModel or UNet2DModel.

    Raises:
        ValueError: If ours cannot be that; the error names the key.
    """
    kind, config = checked(config)
    widths = list(config["block_out_channels"])
    if any(width % widths[0] for width in widths):
        raise ValueError(f"block_out_channels={widths}: all must be multiples of the first")
    levels, resampled = _levels(config, kind, len(widths))
    attending = [*levels, len(widths) - 1]
    scale_shift = _choice(config, "resnet_time_scale_shift", {"default": False, "scale_shift": True})
    return {
        "in_channels": config["in_channels"],
        "out_channels": config["out_channels"],
        "model_channels": widths[0],
        "channel_mult": [width // widths[0] for width in widths],
        "blocks": _single(config, "layers_per_block", range(len(widths))),
        "attention_levels": levels,
        "context_width": _single(config, "cross_attention_dim", attending) if kind == CONDITIONED else None,
        "vector_width": _vector(config) if kind == CONDITIONED else None,
        "depth": _single(config, "transformer_layers_per_block", attending) if kind == CONDITIONED else 1,
        "scale_shift": scale_shift,
        "residual_resampling": resampled,
        "groups": _groups(config, kind, scale_shift=scale_shift),
        **_heads(config, kind, {level: widths[level] for level in attending}),
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
    config: dict[str, Any] = {
        "_class_name": kind,
        "_diffusers_version": VERSION,
        **{key: value for key, value in FIXED[kind].items() if conditioned or key != WRITTEN_LATER},
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
        attending = [width for width, yes in zip(widths, attends, strict=True) if yes] + widths[-1:]
        return {
            **config,
            "attention_head_dim": _channels_per_head(options, attending),
            "attn_norm_num_groups": options.get("groups", 32),
            "downsample_type": resample,
            "upsample_type": resample,
        }
    heads = options.get("heads")
    config |= {
        "cross_attention_dim": options["context_width"],
        "transformer_layers_per_block": options.get("depth", 1),
        "attention_head_dim": heads if heads is not None else [_heads_of(options, width) for width in widths],
        "use_linear_projection": linear,
    }
    if (width := options["context_width"] if options.get("pool_tokens") else options.get("vector_width")) is not None:
        config |= {"class_embed_type": "projection", "projection_class_embeddings_input_dim": width}
    return config


def _kinds(kind: str, attends: Sequence[bool], residual: bool, *, way: int) -> list[str]:
    """Return the kinds of the levels, from the highest resolution down; way: 0 is the down path, 1 the up path."""
    end = (len(attends) - 1, 0)[way]
    return [
        ATTENDING[kind][way] if yes else (RESIDUAL[way] if residual and level != end else PLAIN[way])
        for level, yes in enumerate(attends)
    ]


def _heads_of(options: Mapping[str, Any], width: int) -> int:
    """Return the number of heads of attention at a level, as `UNet` has them."""
    if options.get("heads") is not None:
        return int(options["heads"])
    return max(1, width // int(options.get("head_channels") or width))


def _channels_per_head(options: Mapping[str, Any], widths: Sequence[int]) -> int | None:
    """Return the channels of each head, which a UNet2DModel has alike at all levels; None: there is one head.

    Args:
        options: Options of our `UNet`.
        widths: Channels of each level that attends.

    Raises:
        ValueError: If the heads of some levels have more channels than those of others.
    """
    heads = [_heads_of(options, width) for width in widths]
    found = sorted({width // count for width, count in zip(widths, heads, strict=True)})
    if len(found) == 1:
        return found[0]
    if set(heads) == {1}:
        return None
    option = "heads" if options.get("heads") is not None else "head_channels"
    raise ValueError(
        f"backbone.{option}={options.get(option)} gives heads of {found} channels, and a UNet2DModel of diffusers has heads of "
        "the same number of channels at all levels; the layout of CompVis holds it"
    )


def _levels(config: Mapping[str, Any], kind: str, count: int) -> tuple[list[int], bool]:
    """Return the levels with attention, and whether residual blocks change the resolution."""
    down, up = list(config["down_block_types"]), list(config["up_block_types"])[::-1]
    if not len(down) == len(up) == count:
        raise ValueError(f"{len(down)} down_block_types, {len(up)} up_block_types and {count} block_out_channels")
    for way, kinds in enumerate((down, up)):
        if strange := sorted(set(kinds) - {ATTENDING[kind][way], PLAIN[way], RESIDUAL[way]}):
            key = ("down_block_types", "up_block_types")[way]
            raise ValueError(f"levels of the kind {', '.join(strange)} ({key}) are not known here")
    levels = [level for level, name in enumerate(down) if name == ATTENDING[kind][0]]
    if levels != [level for level, name in enumerate(up) if name == ATTENDING[kind][1]]:
        raise ValueError(f"down_block_types={down} and up_block_types={up[::-1]} attend at different levels")
    residual = {PLAIN[0]: False, PLAIN[1]: False, RESIDUAL[0]: True, RESIDUAL[1]: True}
    for way, key in enumerate(("downsample_type", "upsample_type")):
        chosen = kind == UNCONDITIONED and _choice(config, key, {"conv": False, "resnet": True})
        residual[ATTENDING[kind][way]] = chosen
    resampled = {residual[name] for name in (*down[:-1], *up[1:])}
    if len(resampled) > 1:
        raise ValueError(
            f"down_block_types={down} and up_block_types={up[::-1]}, with downsample_type and upsample_type, change the "
            "resolution by residual blocks at some levels, and by convolutions at others"
        )
    return levels, resampled == {True}


def _heads(config: Mapping[str, Any], kind: str, widths: Mapping[int, int]) -> dict[str, int]:
    """Return `heads` or `head_channels`. In a UNet2DConditionModel, `attention_head_dim` is the number of heads.

    Args:
        config: The config, with all keys.
        kind: Name of the class.
        widths: Level that attends, the last one among them -> its channels.
    """
    given = config["attention_head_dim"]
    if kind == UNCONDITIONED:
        if given is None:
            return {"heads": 1}
        _check_divides("attention_head_dim", given, widths, dict.fromkeys(widths, given))
        return {"head_channels": int(given)}
    key = "num_attention_heads" if config["num_attention_heads"] is not None else "attention_head_dim"
    given = config[key]
    if isinstance(given, int):
        _check_divides(key, given, widths, dict.fromkeys(widths, given))
        return {"heads": given}
    counts = len(config["block_out_channels"])
    if not _is_list(given) or len(given) != counts:
        raise ValueError(
            f"{key}={given} of the U-Net's config.json is neither a number nor {counts}, one for each level"
        )
    _check_divides(key, given, widths, {level: given[level] for level in widths})
    each = {width // given[level] for level, width in widths.items()}
    if len(each) == 1:
        return {"head_channels": int(each.pop())}
    if len({given[level] for level in widths}) == 1:
        return {"heads": int(given[-1])}
    raise ValueError(f"{key}={list(given)} gives neither the same heads nor heads of the same channels")


def _check_divides(key: str, given: Any, widths: Mapping[int, int], divisors: Mapping[int, int]) -> None:
    """Raise ValueError if heads are no numbers, or do not divide the channels of a level."""
    if not all(isinstance(divisor, int) and divisor > 0 for divisor in divisors.values()):
        raise ValueError(f"{key}={given} of the U-Net's config.json is neither a number nor one for each level")
    if wrong := [width for level, width in widths.items() if width % divisors[level]]:
        raise ValueError(f"{key}={given} of the U-Net's config.json does not divide levels of {wrong} channels")


def _groups(config: Mapping[str, Any], kind: str, *, scale_shift: bool) -> int:
    """Return the number of groups of all norms."""
    groups = config["norm_num_groups"]
    if not isinstance(groups, int):
        raise ValueError(f"norm_num_groups={groups} of the U-Net's config.json is no number of groups")
    own = config.get("attn_norm_num_groups")
    if own is None and kind == UNCONDITIONED and scale_shift:
        raise ValueError(
            "attn_norm_num_groups=None with resnet_time_scale_shift=scale_shift of the U-Net's config.json leaves the attention "
            f"in the middle without a norm; here it is {groups}"
        )
    if own not in (None, groups):
        raise ValueError(f"attn_norm_num_groups={own} must be norm_num_groups={groups}")
    return groups


def _vector(config: Mapping[str, Any]) -> int | None:
    """Return the width of a vector that is embedded beside the timestep."""
    kind, width = config["class_embed_type"], config["projection_class_embeddings_input_dim"]
    if kind not in (None, "projection"):
        raise ValueError(f"class_embed_type={kind!r} of the U-Net's config.json is not known here")
    if kind is None:
        return None
    if not isinstance(width, int):
        raise ValueError(f"class_embed_type={kind!r} needs projection_class_embeddings_input_dim; got {width}")
    return width


def _single(config: Mapping[str, Any], key: str, levels: Sequence[int]) -> int:
    """Return a number that may be written once for all levels, or for each; those of `levels` count."""
    value = config[key]
    if _is_list(value) and len(value) != len(config["block_out_channels"]):
        raise ValueError(f"{key}={value} of the U-Net's config.json has {len(value)} numbers, not one for each level")
    found = [value[level] for level in levels] if _is_list(value) else [value]
    if not all(isinstance(one, int) for one in found):
        raise ValueError(f"{key}={value} of the U-Net's config.json is neither a number nor one for each level")
    if len(set(found)) > 1:
        raise ValueError(f"{key}={value} of the U-Net's config.json differs from level to level, which ours does not")
    return int(found[0])


def _is_list(value: Any) -> bool:
    """Return whether a value is a list or tuple, as a config has it for all levels."""
    return isinstance(value, Sequence) and not isinstance(value, str)


def _choice(config: Mapping[str, Any], key: str, choices: Mapping[str, bool]) -> bool:
    value = config[key]
    if value not in choices:
        raise ValueError(f"{key}={value!r} of the U-Net's config.json is none of {', '.join(choices)}")
    return choices[value]
