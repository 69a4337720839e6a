"""Architectures of pretrained networks, to count what they compute where their weights are not on this machine."""

from __future__ import annotations

from typing import Any

from transformers import (
    AutoConfig,
    BertConfig,
    CLIPTextConfig,
    CLIPVisionConfig,
    Dinov2Config,
    PretrainedConfig,
    T5Config,
)

TEXT: dict[str, tuple[type[PretrainedConfig], dict[str, Any]]] = {
    "openai/clip-vit-large-patch14": (
        CLIPTextConfig,
        {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12},
    ),
    "laion/CLIP-ViT-H-14-laion2B-s32B-b79K": (
        CLIPTextConfig,
        {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16},
    ),
    "google/flan-t5-large": (
        T5Config,
        {"d_model": 1024, "d_ff": 2816, "num_layers": 24, "num_heads": 16, "feed_forward_proj": "gated-gelu"},
    ),
    "google/t5-v1_1-xl": (
        T5Config,
        {"d_model": 2048, "d_ff": 5120, "num_layers": 24, "num_heads": 32, "feed_forward_proj": "gated-gelu"},
    ),
    "google/t5-v1_1-xxl": (
        T5Config,
        {"d_model": 4096, "d_ff": 10240, "num_layers": 24, "num_heads": 64, "feed_forward_proj": "gated-gelu"},
    ),
    "google-bert/bert-base-uncased": (BertConfig, {}),
    "bert-base-uncased": (BertConfig, {}),
}
"""Name of a text encoder on the hub -> its class of config, and the options in which it differs from the defaults."""

VISION: dict[str, tuple[type[PretrainedConfig], dict[str, Any]]] = {
    "openai/clip-vit-large-patch14": (
        CLIPVisionConfig,
        {
            **{"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16},
            **{"patch_size": 14, "projection_dim": 768},
        },
    ),
    "facebook/dinov2-base": (Dinov2Config, {"patch_size": 14, "image_size": 518}),
}
"""Name of a vision network on the hub -> its class of config, and the options in which it differs from the defaults."""


def text_architecture(name: str) -> PretrainedConfig | None:
    """Return the config of a text encoder that is on this machine, or known here; else None. Nothing is downloaded."""
    found = _local(name)
    if found is not None:
        text: PretrainedConfig | None = getattr(found, "text_config", None)
        return found if text is None else text
    return _known(TEXT, name)


def vision_architecture(name: str) -> PretrainedConfig | None:
    """Return the config of a network of images that is on this machine, or known here; else None. Nothing is downloaded."""
    found = _local(name)
    if found is not None:
        part: PretrainedConfig | None = getattr(found, "vision_config", None)
        if part is not None:
            part.projection_dim = found.projection_dim
        return found if part is None else part
    return _known(VISION, name)


def _local(name: str) -> PretrainedConfig | None:
    try:
        found: PretrainedConfig = AutoConfig.from_pretrained(name, local_files_only=True)
    except (OSError, ValueError):
        return None
    return found


def _known(table: dict[str, tuple[type[PretrainedConfig], dict[str, Any]]], name: str) -> PretrainedConfig | None:
    if name not in table:
        return None
    config_class, options = table[name]
    return config_class(**options)
