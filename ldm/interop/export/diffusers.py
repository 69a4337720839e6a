"""Models as folders of diffusers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ldm.files.tensors import write_tensors
from ldm.files.whole import write_whole
from ldm.interop.autoencoder import diffusers as first_stage
from ldm.interop.conditioner.beside import ABSENT
from ldm.interop.conditioner.reading import CONDITIONER_FILE
from ldm.interop.export.base import ExportFormat, without_statistics
from ldm.interop.export.card import loading, model_card
from ldm.interop.export.model import PREDICTIONS, ExportedAutoencoder, ExportedModel, model_of
from ldm.interop.export.text import PretrainedText, tokenizer_text, transformer_tensors
from ldm.interop.pipeline import CONFIG, MODEL_INDEX, OWN_INDEX, SCHEDULER_CONFIG
from ldm.interop.unet import diffusers as unet_layout
from ldm.interop.unet.diffusers_config import VERSION, unet_config
from ldm.pretrained.tokenizer_folder import TokenizerFolder, tokenizer_folder

METADATA = {"format": "pt"}
"""The texts in a .safetensors file without which older programs do not read it."""

LDM_TEXT_TOKENS, LDM_TEXT_FACTOR = 77, 8
"""Length of captions, and downsampling of the autoencoder, that LDMTextToImagePipeline takes for granted."""


class DiffusersFormat(ExportFormat):
    """A folder with a component for each part, and a `model_index.json` where one of diffusers' own pipelines runs them."""

    def write_model(self, node: Mapping[str, Any], weights: Mapping[str, Tensor], folder: Path, *, name: str) -> str:
        """See `ExportFormat.write_model`."""
        model = model_of(node, weights, name)
        unet = unet_config(model.backbone, sample_size=model.size // model.autoencoder.factor, linear=model.linear)
        pipeline, parts = _pipeline(model, unet["_class_name"])
        autoencoder = next(name for name in parts if name in ("vae", "vqvae"))
        _write_text(model, folder)
        network = unet_layout.translation(model.backbone, linear=model.linear).write(model.unet)
        _write_component(folder / "unet", unet, network)
        _write_autoencoder(model.autoencoder, folder / autoencoder, sample_size=model.size)
        write_whole(folder / "scheduler" / SCHEDULER_CONFIG, json.dumps(_scheduler(model), indent=2))
        write_whole(folder / "README.md", model_card(model, pipeline, autoencoder))
        if pipeline is None:
            write_whole(folder / OWN_INDEX, json.dumps(dict(model.node), indent=2))
            return (
                f"no pipeline of diffusers runs such a model as it is; {folder / 'README.md'} says how its parts are used there. "
                f"Here it is read as a whole: python sample.py ckpt={folder}"
            )
        index = {"_class_name": pipeline, "_diffusers_version": VERSION, **parts}
        write_whole(folder / MODEL_INDEX, json.dumps(index, indent=2))
        return f"from diffusers import DiffusionPipeline; {loading(pipeline, str(folder))}"

    def write_autoencoder(self, autoencoder: ExportedAutoencoder, folder: Path, *, name: str) -> str:
        """See `ExportFormat.write_autoencoder`."""
        _write_autoencoder(autoencoder, folder, sample_size=256)
        kind = "VQModel" if autoencoder.is_quantised else "AutoencoderKL"
        return f'from diffusers import {kind}; vae = {kind}.from_pretrained("{folder}")'


def _pipeline(model: ExportedModel, unet: str) -> tuple[str | None, dict[str, Any]]:
    """Return the name of the pipeline of diffusers that runs a model, None where none does, and its components."""
    quantised = model.autoencoder.is_quantised
    common: dict[str, Any] = {"unet": ["diffusers", unet], "scheduler": ["diffusers", "DDIMScheduler"]}
    first = ["diffusers", "VQModel" if quantised else "AutoencoderKL"]
    node = model.conditioner
    beside = model.beside
    more = bool(model.backbone.get("pool_tokens")) or (beside is None and bool(model.backbone.get("concat_channels")))
    attends_to_all = not node.get("mask_padding", True)
    if model.conditioned_by == "HuggingFaceConditioner":
        clip = PretrainedText.of(model.conditioner_weights).is_clip
        tokenizer = ["transformers", _tokenizer(model).class_name]
        parts = {**common, "vae": first, "tokenizer": tokenizer, "text_encoder": ["transformers", "CLIPTextModel"]}
        name, absent = (beside.pipeline, beside.absent) if beside is not None else ("StableDiffusionPipeline", ABSENT)
        none: dict[str, Any] = {component: [None, None] for component in absent}
        if "safety_checker" in none:
            none["requires_safety_checker"] = False
        fits = clip and attends_to_all and not quantised and not more
        return (name, parts | none) if fits else (None, parts)
    if model.conditioned_by == "TransformerConditioner":
        tokenizer = ["transformers", _tokenizer(model).class_name]
        parts = {**common, "vqvae": first, "tokenizer": tokenizer, "bert": ["latent_diffusion", "LDMBertModel"]}
        usual = node.get("max_tokens") == LDM_TEXT_TOKENS and model.autoencoder.factor == LDM_TEXT_FACTOR
        fits = usual and attends_to_all and not more and beside is None
        return ("LDMTextToImagePipeline", parts) if fits else (None, parts)
    parts = {**common, "vqvae": first}
    return ("LDMPipeline", parts) if model.conditioned_by == "Unconditional" else (None, parts)


def _scheduler(model: ExportedModel) -> dict[str, Any]:
    """Return the config of a DDIM scheduler."""
    linear = {"beta_schedule": "scaled_linear", "beta_start": model.start, "beta_end": model.end}
    return {
        "_class_name": "DDIMScheduler",
        "_diffusers_version": VERSION,
        "num_train_timesteps": len(model.betas),
        **(linear if model.start is not None else {"trained_betas": model.betas}),
        "prediction_type": PREDICTIONS[model.prediction][0],
        "rescale_betas_zero_snr": model.zero_terminal,
        "timestep_spacing": "trailing",
        "clip_sample": False,
        "set_alpha_to_one": True,
        "steps_offset": 1,
    }


def _write_component(folder: Path, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / CONFIG, json.dumps(config, indent=2))
    write_tensors(folder / "diffusion_pytorch_model.safetensors", tensors, METADATA)


def _write_autoencoder(autoencoder: ExportedAutoencoder, folder: Path, *, sample_size: int) -> None:
    options, weights = autoencoder.options, without_statistics(autoencoder.weights)
    config = first_stage.config(options, scaling_factor=autoencoder.scale, sample_size=sample_size)
    tensors = first_stage.translation(options).write(weights)
    _write_component(folder, {**config, "_diffusers_version": VERSION}, tensors)


def _write_text(model: ExportedModel, folder: Path) -> None:
    """Write what conditions a model: a text encoder and its tokenizer, or the weights of another conditioner as they are."""
    node, state = model.conditioner, model.conditioner_weights
    if model.conditioned_by == "HuggingFaceConditioner":
        text = PretrainedText.of(state)
        prefix = "text_model." if text.is_clip else ""
        kind = (
            "CLIPTextModel"
            if text.is_clip
            else "T5EncoderModel"
            if text.architecture["model_type"] == "t5"
            else "AutoModel"
        )
        config = {**text.architecture, "architectures": [kind]}
        tensors = {prefix + name: tensor for name, tensor in text.tensors.items()}
        _write_transformers(folder / "text_encoder", config, tensors)
        _write_tokenizer(model, folder / "tokenizer")
    elif model.conditioned_by == "TransformerConditioner":
        tensors = transformer_tensors(node, state, ldm_bert=True)
        vocabulary, width = tensors["model.embed_tokens.weight"].shape
        config = {
            "architectures": ["LDMBertModel"],
            "model_type": "ldmbert",
            "vocab_size": vocabulary,
            "d_model": width,
            "max_position_embeddings": node["max_tokens"],
            "encoder_layers": node["depth"],
            "encoder_ffn_dim": 4 * width,
            "encoder_attention_heads": node["heads"],
            "head_dim": node["head_width"],
            "activation_function": "gelu",
            "dropout": 0.0,
        }
        _write_transformers(folder / "bert", config, tensors)
        _write_tokenizer(model, folder / "tokenizer")
    elif state:
        write_tensors(folder / "conditioner" / CONDITIONER_FILE, state, METADATA)
        write_whole(folder / "conditioner" / CONFIG, json.dumps(dict(node), indent=2))


def _tokenizer(model: ExportedModel) -> TokenizerFolder:
    return tokenizer_folder(tokenizer_text(model), max_tokens=model.conditioner["max_tokens"])


def _write_tokenizer(model: ExportedModel, folder: Path) -> None:
    for name, text in _tokenizer(model).files.items():
        write_whole(folder / name, text)


def _write_transformers(folder: Path, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / CONFIG, json.dumps(config, indent=2, default=str))
    write_tensors(folder / "model.safetensors", tensors, METADATA)
