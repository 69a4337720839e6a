"""Checkpoints of CompVis' latent-diffusion and stable-diffusion, and of those who kept their layout."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ldm.interop.conditioner.beside import DEPTH_NETWORK, MAPS
from ldm.interop.conventions import Conventions, prediction_node, schedule_node

UNET = "model.diffusion_model."
"""The beginning of the names of the U-Net."""

AVERAGES = "model_ema."
"""The beginning of the names of averaged weights, which have no other dot."""

FIRST_STAGE = "first_stage_model."
"""The beginning of the names of the autoencoder."""

CONDITIONER = "cond_stage_model."
"""The beginning of the names of the conditioner."""

SCHEDULE = (
    "betas",
    "alphas_cumprod",
    "alphas_cumprod_prev",
    "sqrt_alphas_cumprod",
    "sqrt_one_minus_alphas_cumprod",
    "log_one_minus_alphas_cumprod",
    "sqrt_recip_alphas_cumprod",
    "sqrt_recipm1_alphas_cumprod",
    "posterior_variance",
    "posterior_log_variance_clipped",
    "posterior_mean_coef1",
    "posterior_mean_coef2",
    "lvlb_weights",
    "logvar",
    "cond_ids",
)
"""Names of the tables of the noise schedule, which are computed of its betas."""

BOOKKEEPING: Mapping[str, str] = {
    "|".join(SCHEDULE): "the noise schedule, which is computed of its betas",
    "scale_factor": "the scale of latents, which the autoencoder has here",
    r"model_ema\.(decay|num_updates)": "the state of averaging",
    r"cond_stage_model\.(logit_scale|text_projection)": "a part of CLIP that takes no part in making images",
    r"depth_model\..*": DEPTH_NETWORK,
    r"(noise_augmentor|embedder)\..*": "another network, which is named by an option here",
}
"""Patterns of names that are left out on purpose -> why."""


def is_checkpoint(names: Mapping[str, Any]) -> bool:
    """Return whether tensors are those of a whole model in this layout."""
    return any(name.startswith(UNET) for name in names)


def with_averages(tensors: Mapping[str, Tensor], *, averaged: bool = True) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return tensors in which the averaged weights (EMA) stand in place of those they are averages of.

    Args:
        tensors: All tensors of a checkpoint.
        averaged: False: averaged weights are left out.

    Returns:
        The tensors without `model_ema.*`, and the names that are left out, with the reason.

    Raises:
        ValueError: If averages belong to no weight.
    """
    averages = {name for name in tensors if name.startswith(AVERAGES) and not _bookkeeping(name)}
    kept = {name: tensor for name, tensor in tensors.items() if name not in averages}
    if not averages:
        return kept, {}
    if not averaged:
        return kept, dict.fromkeys(averages, "averaged weights, which were not asked for")
    own = {AVERAGES + name.removeprefix("model.").replace(".", ""): name for name in kept if name.startswith(UNET)}
    if strange := sorted(averages - own.keys()):
        raise ValueError(
            f"averaged weights belong to no weight of the U-Net: {strange[:5]}; give averaged=false to leave them out"
        )
    for name in averages:
        kept[own[name]] = tensors[name]
    return kept, dict.fromkeys(
        (f"{own[name]} (not averaged)" for name in averages), "its average was taken (model_ema)"
    )


def bookkeeping(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Return the names that are left out on purpose, with the reason."""
    found = {name: why for name in tensors if (why := _bookkeeping(name)) is not None}
    for name in tensors:
        first = FIRST_STAGE + name.removeprefix(CONDITIONER)
        if name.startswith(CONDITIONER) and first in tensors and tensors[first].shape == tensors[name].shape:
            found[name] = "the first stage again, which also encodes the condition"
    return found


def _bookkeeping(name: str) -> str | None:
    return next((why for pattern, why in BOOKKEEPING.items() if re.fullmatch(pattern, name)), None)


LAYOUT_TOKENS = 8192
"""Different tokens of the transformer that reads layouts: their number distinguishes it from one that reads text."""


def conditioner_kind(tensors: Mapping[str, Tensor]) -> str:
    """Return the kind of condition of a model, a key of `conventions.EXPERIMENTS`, by its conditioner's tensors.

    Raises:
        ValueError: If that is unknown.
    """
    own = [name.removeprefix(CONDITIONER) for name in tensors if name.startswith(CONDITIONER)]
    embedding = tensors.get(f"{CONDITIONER}transformer.token_emb.weight")
    if embedding is not None and len(embedding) == LAYOUT_TOKENS:
        return "layout"
    marks = {
        "clip": ("transformer.text_model.", "transformer.embeddings.token_embedding"),
        "open_clip": ("model.transformer.resblocks.",),
        "bert": ("transformer.token_emb.",),
        "label": ("embedding.weight",),
        "segmentation": ("channel_mapper.",),
    }
    for kind, starts in marks.items():
        if any(name.startswith(starts) for name in own):
            return kind
    if own:
        raise ValueError(f"the conditioner has an unknown layout: {sorted(own)[:5]}; known are {', '.join(marks)}")
    return "none"


def conventions_of(config: Mapping[str, Any] | None, tensors: Mapping[str, Tensor]) -> Conventions:
    """Return the conventions that the yaml of a model says, or single tensors.

    Args:
        config: The yaml; None: there is none.
        tensors: All tensors of the checkpoint.

    Raises:
        ValueError: If the yaml asks for what cannot be.
    """
    scale = float(tensors["scale_factor"]) if "scale_factor" in tensors else None
    if config is None:
        return Conventions(scale=scale, schedule=_schedule_of(tensors))
    params: Mapping[str, Any] = config["model"]["params"]
    unet: Mapping[str, Any] = params.get("unet_config", {}).get("params", {})
    predictions = {"eps": "noise", "v": "velocity", "x0": "clean"}
    parameterization = params.get("parameterization", "eps")
    if parameterization not in predictions:
        raise ValueError(f"the yaml's parameterization {parameterization!r} is none of {', '.join(predictions)}")
    kind = params.get("beta_schedule", "linear")
    if kind != "linear":
        raise ValueError(f"the yaml's beta_schedule {kind!r} is not supported; it is linear (scaled_linear here)")
    if unet.get("use_new_attention_order"):
        raise ValueError(
            "the yaml's use_new_attention_order=true is not supported: attention is read in the older order"
        )
    if (order := params.get("concat_keys")) is not None and list(order) not in [one.keys for one in MAPS]:
        raise ValueError(
            f"the yaml's concat_keys {order} are not supported; what stands beside the latent is, in this order, "
            f"{' or '.join(str(one.keys) for one in MAPS)}"
        )
    heads = {
        "head_channels" if key == "num_head_channels" else "heads": int(unet[key])
        for key in ("num_head_channels", "num_heads")
        if unet.get(key, -1) not in (-1, None)
    }
    first = params.get("first_stage_config", {}).get("params", {}).get("ddconfig", {})
    side = params.get("image_size")
    factor = 2 ** (len(first["ch_mult"]) - 1) if first.get("ch_mult") else None
    return Conventions(
        heads=dict(list(heads.items())[:1]) or None,
        schedule=schedule_node(
            "scaled_linear",
            float(params.get("linear_start", 1e-4)),
            float(params.get("linear_end", 2e-2)),
            int(params.get("timesteps", 1000)),
        ),
        prediction=prediction_node(predictions[parameterization]),
        size=int(side) * factor if isinstance(side, int) and factor else None,
        scale=scale if scale is not None else params.get("scale_factor"),
    )


def _schedule_of(tensors: Mapping[str, Tensor]) -> dict[str, Any] | None:
    """Return the schedule whose betas a checkpoint holds; None where it holds none, or none that are exact enough."""
    betas = tensors.get("betas")
    if betas is None or betas.dtype not in (torch.float32, torch.float64):
        return None
    start, end = (round(float(betas[place]), 7) for place in (0, -1))
    roots = betas.double().sqrt()
    steps = roots.diff()
    if (steps - steps.mean()).abs().max() > 1e-4 * roots.max():
        raise ValueError("the checkpoint's betas are not those of a schedule that is linear in their square roots")
    return schedule_node("scaled_linear", start, end, len(betas))
