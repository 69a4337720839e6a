"""Rename weights of our networks to the names of diffusers' networks, so that both can be run on the same numbers."""

from __future__ import annotations

import re

from torch import Tensor

RESIDUAL = {
    "norm1": "norm1",
    "conv1": "conv1",
    "embed": "time_emb_proj",
    "norm2": "norm2",
    "conv2": "conv2",
    "skip": "conv_shortcut",
}
MAP_ATTENTION = {
    "norm": "group_norm",
    "attend.query": "to_q",
    "attend.key": "to_k",
    "attend.value": "to_v",
    "attend.out": "to_out.0",
}
TRANSFORMER = {
    "into": "proj_in",
    "out": "proj_out",
    "norm": "norm",
    r"blocks\.(\d+)\.norm_self": r"transformer_blocks.\1.norm1",
    r"blocks\.(\d+)\.norm_cross": r"transformer_blocks.\1.norm2",
    r"blocks\.(\d+)\.norm_feed": r"transformer_blocks.\1.norm3",
    r"blocks\.(\d+)\.attend_self\.out": r"transformer_blocks.\1.attn1.to_out.0",
    r"blocks\.(\d+)\.attend_cross\.out": r"transformer_blocks.\1.attn2.to_out.0",
    r"blocks\.(\d+)\.attend_self\.query": r"transformer_blocks.\1.attn1.to_q",
    r"blocks\.(\d+)\.attend_self\.key": r"transformer_blocks.\1.attn1.to_k",
    r"blocks\.(\d+)\.attend_self\.value": r"transformer_blocks.\1.attn1.to_v",
    r"blocks\.(\d+)\.attend_cross\.query": r"transformer_blocks.\1.attn2.to_q",
    r"blocks\.(\d+)\.attend_cross\.key": r"transformer_blocks.\1.attn2.to_k",
    r"blocks\.(\d+)\.attend_cross\.value": r"transformer_blocks.\1.attn2.to_v",
    r"blocks\.(\d+)\.feed\.0\.project": r"transformer_blocks.\1.ff.net.0.proj",
    r"blocks\.(\d+)\.feed\.1": r"transformer_blocks.\1.ff.net.2",
}


def rename(inner: str, table: dict[str, str]) -> str:
    stem, _, kind = inner.rpartition(".")
    for pattern, name in table.items():
        if re.fullmatch(pattern, stem):
            return f"{re.sub(pattern, name, stem)}.{kind}"
    raise KeyError(inner)


def unet_weights(weights: dict[str, Tensor], *, cross: bool, convolutions: bool = False) -> dict[str, Tensor]:
    """Turn the state dict of our UNet into that of diffusers' UNet2DConditionModel, or of UNet2DModel without `cross`.

    With `convolutions`, theirs has 1 x 1 convolutions where ours projects into and out of transformer blocks.
    """
    attention = TRANSFORMER if cross else MAP_ATTENTION
    plain = {
        "time.0": "time_embedding.linear_1",
        "time.2": "time_embedding.linear_2",
        "conv_in": "conv_in",
        "norm_out": "conv_norm_out",
        "conv_out": "conv_out",
    }

    def name(key: str) -> str:
        if match := re.match(r"(down|up)\.(\d+)\.stages\.(\d+)\.(residual|attention)\.(.*)", key):
            way, level, place, kind, inner = match.groups()
            if kind == "residual":
                return f"{way}_blocks.{level}.resnets.{place}.{rename(inner, RESIDUAL)}"
            return f"{way}_blocks.{level}.attentions.{place}.{rename(inner, attention)}"
        if match := re.match(r"(down|up)\.(\d+)\.resample\.conv\.(.*)", key):
            way, level, inner = match.groups()
            return f"{way}_blocks.{level}.{way}samplers.0.conv.{inner}"
        if match := re.match(r"(down|up)\.(\d+)\.resample\.(.*)", key):  # a residual block
            way, level, inner = match.groups()
            return f"{way}_blocks.{level}.{way}samplers.0.{rename(inner, RESIDUAL)}"
        if match := re.match(r"middle\.(\d)\.(residual|attention)\.(.*)", key):
            place, kind, inner = match.groups()
            if kind == "residual":
                return f"mid_block.resnets.{place}.{rename(inner, RESIDUAL)}"
            return f"mid_block.attentions.{place}.{rename(inner, attention)}"
        return rename(key, plain)

    renamed = {name(key): value for key, value in weights.items()}
    projections = [key for key in renamed if convolutions and re.search(r"proj_(in|out)\.weight$", key)]
    return renamed | {key: renamed[key][:, :, None, None] for key in projections}


def autoencoder_weights(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Turn the state dict of our ConvAutoencoder into that of diffusers' AutoencoderKL or VQModel."""
    plain = {
        "to_moments": "quant_conv",
        "from_raw": "post_quant_conv",
        r"regularizer\.codebook": "quantize.embedding",
        r"(encoder|decoder)\.conv_in": r"\1.conv_in",
        r"(encoder|decoder)\.conv_out": r"\1.conv_out",
        r"(encoder|decoder)\.norm_out": r"\1.conv_norm_out",
    }

    def name(key: str) -> str:
        if match := re.match(r"(encoder|decoder)\.levels\.(\d+)\.(residuals|attentions)\.(\d+)\.(.*)", key):
            part, level, kind, place, inner = match.groups()
            way = "down" if part == "encoder" else "up"
            if kind == "residuals":
                return f"{part}.{way}_blocks.{level}.resnets.{place}.{rename(inner, RESIDUAL)}"
            return f"{part}.{way}_blocks.{level}.attentions.{place}.{rename(inner, MAP_ATTENTION)}"
        if match := re.match(r"(encoder|decoder)\.levels\.(\d+)\.resample\.conv\.(.*)", key):
            part, level, inner = match.groups()
            way = "down" if part == "encoder" else "up"
            return f"{part}.{way}_blocks.{level}.{way}samplers.0.conv.{inner}"
        if match := re.match(r"(encoder|decoder)\.middle\.(\d)\.(.*)", key):
            part, place, inner = match.groups()
            if place == "1":
                return f"{part}.mid_block.attentions.0.{rename(inner, MAP_ATTENTION)}"
            return f"{part}.mid_block.resnets.{int(place) // 2}.{rename(inner, RESIDUAL)}"
        return rename(key, plain)

    learned = {key: value for key, value in weights.items() if key not in ("shift", "scale", "statistics_count")}
    return {name(key): value for key, value in learned.items()}
