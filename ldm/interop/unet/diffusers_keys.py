"""The keys of a U-Net's config.json of diffusers: their usual values, and those that have only one value here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

CONDITIONED, UNCONDITIONED = "UNet2DConditionModel", "UNet2DModel"
"""Names of the classes: with tokens to attend to, and without."""

ATTENDING: Mapping[str, tuple[str, str]] = {
    CONDITIONED: ("CrossAttnDownBlock2D", "CrossAttnUpBlock2D"),
    UNCONDITIONED: ("AttnDownBlock2D", "AttnUpBlock2D"),
}
"""Kinds of levels with attention, down and up."""

PLAIN = ("DownBlock2D", "UpBlock2D")
"""Kinds of levels without attention, down and up; their resolution is changed by convolutions."""

RESIDUAL = ("ResnetDownsampleBlock2D", "ResnetUpsampleBlock2D")
"""The same, where residual blocks change the resolution."""

_EVERY_FIXED: Mapping[str, Any] = {
    "center_input_sample": False,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "downsample_padding": 1,
    "mid_block_scale_factor": 1,
    "act_fn": "silu",
    "norm_eps": 1e-5,
    "time_embedding_type": "positional",
}

FIXED: Mapping[str, Mapping[str, Any]] = {
    CONDITIONED: {
        **_EVERY_FIXED,
        "conv_in_kernel": 3,
        "conv_out_kernel": 3,
        "resnet_out_scale_factor": 1.0,
        "attention_type": "default",
        "mid_block_type": "UNetMidBlock2DCrossAttn",
    },
    UNCONDITIONED: {**_EVERY_FIXED, "add_attention": True, "mid_block_type": "UNetMidBlock2D"},
}
"""Class -> keys that can only have one value here, which is also theirs where a config leaves the key out."""

_EVERY_USUAL: Mapping[str, Any] = {
    "layers_per_block": 2,
    "attention_head_dim": 8,
    "norm_num_groups": 32,
    "resnet_time_scale_shift": "default",
}

USUAL: Mapping[str, Mapping[str, Any]] = {
    CONDITIONED: {
        **_EVERY_USUAL,
        "in_channels": 4,
        "out_channels": 4,
        "block_out_channels": (320, 640, 1280, 1280),
        "down_block_types": (*[ATTENDING[CONDITIONED][0]] * 3, PLAIN[0]),
        "up_block_types": (PLAIN[1], *[ATTENDING[CONDITIONED][1]] * 3),
        "num_attention_heads": None,
        "cross_attention_dim": 1280,
        "transformer_layers_per_block": 1,
        "use_linear_projection": False,
        "class_embed_type": None,
        "projection_class_embeddings_input_dim": None,
    },
    UNCONDITIONED: {
        **_EVERY_USUAL,
        "in_channels": 3,
        "out_channels": 3,
        "block_out_channels": (224, 448, 672, 896),
        "down_block_types": (PLAIN[0], *[ATTENDING[UNCONDITIONED][0]] * 3),
        "up_block_types": (*[ATTENDING[UNCONDITIONED][1]] * 3, PLAIN[1]),
        "attn_norm_num_groups": None,
        "downsample_type": "conv",
        "upsample_type": "conv",
    },
}
"""Class -> keys that say how the network is built, and their values where a config leaves them out."""

IGNORED = ("sample_size", "dropout", "upcast_attention", "num_train_timesteps", "addition_embed_type_num_heads")
"""Keys that change nothing of a finished network."""


def checked(config: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    """Return the class of a U-Net, and its config with the keys that were left out.

    Args:
        config: A config.json. Without `_class_name` it is one of a UNet2DConditionModel.

    Raises:
        ValueError: If a key asks for what ours cannot be; the error names it.
    """
    kind = config.get("_class_name", CONDITIONED)
    if kind not in USUAL:
        raise ValueError(f"_class_name={kind} is none of {', '.join(USUAL)}")
    for key, value in config.items():
        fixed = FIXED[kind]
        if key in fixed:
            if value != fixed[key]:
                raise ValueError(f"{key}={value!r} of the U-Net's config.json cannot be; here it is {fixed[key]!r}")
        elif key not in USUAL[kind] and key not in IGNORED and not key.startswith("_") and not _is_off(value):
            raise ValueError(f"{key}={value!r} of the U-Net's config.json is not known here")
    return kind, {**USUAL[kind], **config}


def _is_off(value: Any) -> bool:
    """Return whether a value switches something off, at all levels."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        return all(_is_off(one) for one in value)
    return value is None or value is False
