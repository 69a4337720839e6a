"""Models in one file, in the layout of CompVis and Stable Diffusion."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from torch import Tensor

from ldm.files.tensors import write_tensors
from ldm.files.whole import write_whole
from ldm.interop.autoencoder import compvis as first_stage
from ldm.interop.autoencoder.folding import fold
from ldm.interop.compvis import CONDITIONER, FIRST_STAGE, UNET
from ldm.interop.conditioner.reading import label_table
from ldm.interop.conditioner.text import HEAD_WIDTH
from ldm.interop.export.base import ExportFormat, without_statistics
from ldm.interop.export.model import CUSTOMARY_SCALE, PREDICTIONS, ExportedAutoencoder, ExportedModel, model_of
from ldm.interop.export.text import PretrainedText, is_bert_tokenizer, tokenizer_text, transformer_tensors
from ldm.interop.unet import compvis as unet_layout

MODEL, AUTOENCODER = "model", "autoencoder"
"""Names of the files, before their endings."""

HEADS, ACTIVATIONS = 8, ("quick_gelu", "gelu")
"""Heads of the trained transformer, and activations of CLIP's text models, that this layout knows."""


class CompVisFormat(ExportFormat):
    """One .safetensors in the layout of CompVis and Stable Diffusion, and a yaml of the same name with the conventions."""

    def write_model(self, node: Mapping[str, Any], weights: Mapping[str, Tensor], folder: Path, *, name: str) -> str:
        """See `ExportFormat.write_model`."""
        model = model_of(node, weights, name)
        if model.start is None or model.zero_terminal:
            raise ValueError(
                "this layout knows schedule=scaled_linear alone (its yaml calls it linear); use format=diffusers"
            )
        if model.backbone.get("pool_tokens"):
            raise ValueError("backbone.pool_tokens=true has no place in this layout; use format=diffusers")
        conditioner, target, key = _conditioner(model)
        autoencoder = model.autoencoder
        if target.endswith("CLIPEmbedder") and autoencoder.scale != CUSTOMARY_SCALE and not autoencoder.is_quantised:
            folded = fold(autoencoder.weights, autoencoder.options, keep=CUSTOMARY_SCALE)
            autoencoder = ExportedAutoencoder(autoencoder.options, folded, CUSTOMARY_SCALE)
        tensors = {
            **_prefixed(UNET, unet_layout.translation(model.backbone, linear=model.linear).write(model.unet)),
            **_prefixed(FIRST_STAGE, _first_stage(autoencoder)),
            **_prefixed(CONDITIONER, conditioner),
        }
        write_tensors(folder / f"{MODEL}.safetensors", tensors)
        write_whole(folder / f"{MODEL}.yaml", OmegaConf.to_yaml(_yaml(model, autoencoder, target, key)))
        return (
            f"{folder / MODEL}.safetensors and .yaml: copy both to where a user interface has its checkpoints, or read them "
            f"here: python sample.py ckpt={folder / MODEL}.safetensors"
        )

    def write_autoencoder(self, autoencoder: ExportedAutoencoder, folder: Path, *, name: str) -> str:
        """See `ExportFormat.write_autoencoder`."""
        file = folder / f"{AUTOENCODER}.safetensors"
        write_tensors(file, _first_stage(autoencoder))
        return f"{file}: a VAE file; its latents are multiplied with {autoencoder.scale:g}"


def _first_stage(autoencoder: ExportedAutoencoder) -> dict[str, Tensor]:
    return first_stage.translation(autoencoder.options).write(without_statistics(autoencoder.weights))


def _conditioner(model: ExportedModel) -> tuple[dict[str, Tensor], str, str]:
    """Return the conditioner's tensors, the class that CompVis' programs read them with, and the field that it reads.

    Raises:
        ValueError: If they have no such class.
    """
    kind, node, state = model.conditioned_by, model.conditioner, model.conditioner_weights
    modules = "ldm.modules.encoders.modules."
    if kind == "HuggingFaceConditioner":
        text = PretrainedText.of(state)
        if not text.is_clip or node.get("mask_padding", True):
            raise ValueError(
                f"a text encoder of type {text.architecture.get('model_type')} with conditioner.mask_padding="
                f"{str(node.get('mask_padding', True)).lower()} has no place in this layout, which knows CLIP's, padding "
                "attended to; use format=diffusers"
            )
        form = text.architecture
        if form["num_attention_heads"] * HEAD_WIDTH != form["hidden_size"] or form["hidden_act"] not in ACTIVATIONS:
            raise ValueError(
                f"a text encoder with num_attention_heads={form['num_attention_heads']} and hidden_act={form['hidden_act']} has "
                f"no place in this layout, which takes heads of {HEAD_WIDTH} channels and {' or '.join(ACTIVATIONS)} for "
                "granted; use format=diffusers"
            )
        if text.is_open_clip:
            return _prefixed("model.", text.open_clip()), f"{modules}FrozenOpenCLIPEmbedder", "txt"
        return _prefixed("transformer.text_model.", text.tensors), f"{modules}FrozenCLIPEmbedder", "txt"
    if kind == "TransformerConditioner" and (
        not is_bert_tokenizer(tokenizer_text(model)) or node.get("mask_padding", True)
    ):
        raise ValueError(
            "a text transformer with a tokenizer of its own, or with conditioner.mask_padding=true, has no place in this layout, "
            "which takes BERT's tokenizer and attention to all tokens for granted; use format=diffusers"
        )
    if kind in ("TransformerConditioner", "LayoutConditioner"):
        if (node["heads"], node["head_width"]) != (HEADS, HEAD_WIDTH):
            raise ValueError(
                f"a transformer with conditioner.heads={node['heads']} and conditioner.head_width={node['head_width']} has no "
                f"place in this layout, which takes {HEADS} of {HEAD_WIDTH} channels for granted; use format=diffusers"
            )
        tensors = transformer_tensors(node, state, ldm_bert=False)
        key = "caption" if kind == "TransformerConditioner" else "coordinates_bbox"
        return _prefixed("transformer.", tensors), f"{modules}BERTEmbedder", key
    if kind == "LabelConditioner" and node.get("width") is not None:
        return {"embedding.weight": label_table(state)}, f"{modules}ClassEmbedder", "class_label"
    if kind == "SegmentationConditioner" and node.get("unlabelled") is None:
        weight = state["project.weight"][:, :, None, None]
        return {"channel_mapper.weight": weight}, f"{modules}SpatialRescaler", "segmentation"
    if kind == "Unconditional":
        return {}, "__is_unconditional__", "image"
    raise ValueError(f"a {kind} has no place in this layout; use format=diffusers")


def _yaml(model: ExportedModel, autoencoder: ExportedAutoencoder, target: str, key: str) -> dict[str, Any]:
    """Return the yaml of CompVis' programs, with what tensors do not tell."""
    backbone, first = model.backbone, autoencoder.options
    heads = {"num_head_channels": backbone["head_channels"]} if backbone.get("head_channels") else {}
    unet = {
        "image_size": model.size // autoencoder.factor,
        "in_channels": backbone["in_channels"] + backbone.get("concat_channels", 0),
        "out_channels": backbone.get("out_channels") or backbone["in_channels"],
        "model_channels": backbone.get("model_channels", 320),
        "channel_mult": list(backbone.get("channel_mult", (1, 2, 4, 4))),
        "num_res_blocks": backbone.get("blocks", 2),
        "attention_resolutions": [2**level for level in backbone.get("attention_levels", (0, 1, 2))],
        "use_spatial_transformer": backbone.get("context_width") is not None,
        "use_linear_in_transformer": model.linear,
        "transformer_depth": backbone.get("depth", 1),
        "context_dim": backbone.get("context_width"),
        "use_scale_shift_norm": bool(backbone.get("scale_shift")),
        "resblock_updown": bool(backbone.get("residual_resampling")),
        **(heads or {"num_heads": backbone.get("heads", 8)}),
    }
    model_class, reached, extra = "LatentDiffusion", "concat" if backbone.get("concat_channels") else "crossattn", {}
    if model.beside is not None:
        model_class, reached = model.beside.compvis, "hybrid"
        extra = {"concat_keys": model.beside.keys, "finetune_keys": None, **model.beside.params}
    widths = first.get("channel_mult", (1, 2, 4, 4))
    first_stage_params = {
        "embed_dim": first["latent_channels"],
        "ddconfig": {
            "double_z": not autoencoder.is_quantised,
            "z_channels": first["latent_channels"],
            "resolution": model.size,
            "in_channels": 3,
            "out_ch": 3,
            "ch": first["channels"],
            "ch_mult": list(widths),
            "num_res_blocks": first["blocks"],
            "attn_resolutions": [model.size // 2**level for level in first.get("attention_levels", ())],
            "dropout": 0.0,
        },
    }
    kind = "VQModelInterface" if autoencoder.is_quantised else "AutoencoderKL"
    if autoencoder.is_quantised:
        first_stage_params["n_embed"] = first["regularizer"]["codes"]
    return {
        "model": {
            "target": f"ldm.models.diffusion.ddpm.{model_class}",
            "params": {
                "linear_start": model.start,
                "linear_end": model.end,
                "timesteps": len(model.betas),
                "parameterization": PREDICTIONS[model.prediction][1],
                "image_size": model.size // autoencoder.factor,
                "channels": first["latent_channels"],
                "scale_factor": autoencoder.scale,
                "cond_stage_key": key,
                "conditioning_key": reached,
                **extra,
                "use_ema": False,
                "unet_config": {"target": "ldm.modules.diffusionmodules.openaimodel.UNetModel", "params": unet},
                "first_stage_config": {"target": f"ldm.models.autoencoder.{kind}", "params": first_stage_params},
                "cond_stage_config": _cond_stage(model, autoencoder, target),
            },
        }
    }


def _cond_stage(model: ExportedModel, autoencoder: ExportedAutoencoder, target: str) -> Any:
    """Return the part of the yaml that builds the conditioner."""
    node = model.conditioner
    params: dict[str, Any] = {}
    match target.rpartition(".")[2]:
        case "BERTEmbedder":
            table, places = (
                model.conditioner_weights["network.embed.weight"],
                model.conditioner_weights["network.position"],
            )
            params = {"n_embed": table.shape[1], "n_layer": node["depth"], "vocab_size": table.shape[0]}
            text = model.conditioned_by == "TransformerConditioner"
            params |= {"max_seq_len": places.shape[0], "use_tokenizer": text}
        case "ClassEmbedder":
            rows, width = label_table(model.conditioner_weights).shape
            params = {"n_classes": rows, "embed_dim": width, "key": "class_label"}
        case "SpatialRescaler":
            channels = {"in_channels": node["num_classes"], "out_channels": node["concat_channels"]}
            params = {"n_stages": autoencoder.factor.bit_length() - 1, **channels}
        case "FrozenOpenCLIPEmbedder":
            params = {"freeze": True, "layer": "penultimate"}
    if target.startswith("__"):
        return target
    return {"target": target, "params": params} if params else {"target": target}


def _prefixed(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in tensors.items()}
