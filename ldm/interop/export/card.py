"""The model card of an exported model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ldm.config import class_name
from ldm.interop.conditioner.beside import DEPTH, INPAINTING, TEXT_CLASSES
from ldm.interop.export.model import PREDICTIONS, ExportedModel
from ldm.interop.pipeline import OWN_INDEX

CALLS: Mapping[str, str] = {
    "LDMPipeline": "pipe(batch_size=4).images",
    INPAINTING.pipeline: 'pipe("a caption", image=image, mask_image=mask).images  # white in the mask is made anew',
    DEPTH.pipeline: 'pipe("a caption", image=image, depth_map=depth).images  # depth: (1, height, width), more is nearer',
}
"""Name of a pipeline -> how it is called; all others are called with a caption alone."""

CONDITIONS: Mapping[str, str] = {
    "TransformerConditioner": "a caption (trained transformer)",
    "HuggingFaceConditioner": "a caption (frozen text encoder)",
    "LabelConditioner": "a class",
    "LayoutConditioner": "boxes with their classes",
    "SegmentationConditioner": "a label map",
    "InpaintingConditioner": "a masked image with its mask",
    "DepthConditioner": "a depth map",
    "LowResolutionConditioner": "a smaller image",
    "ImageConditioner": "another image",
    "NeighborsConditioner": "similar images",
    "SizeConditioner": "sizes and places of crops",
    "Unconditional": "none",
}
"""Name of a conditioner's class -> the condition of the model."""


def loading(pipeline: str, folder: str) -> str:
    """Return the line of Python that loads a pipeline of diffusers from a folder."""
    absent = "".join(f", {name}=None" for name in DEPTH.absent) if pipeline == DEPTH.pipeline else ""
    return f'pipe = DiffusionPipeline.from_pretrained("{folder}"{absent})'


def model_card(model: ExportedModel, pipeline: str | None, autoencoder: str) -> str:
    """Return a page in Markdown that says what a model is and how diffusers runs it.

    Args:
        model: The model.
        pipeline: Name of the pipeline of diffusers that runs it; None: none does.
        autoencoder: Name of the folder of its autoencoder.
    """
    masked = model.conditioner.get("mask_padding", False)
    conditions = [
        _condition(model.conditioner),
        *([_condition({"_target_": model.beside.target})] if model.beside else []),
    ]
    facts = [
        f"| images of training | {model.size} x {model.size} pixels |",
        f"| condition | {' and '.join(conditions)} |",
        f"| predicts | {PREDICTIONS[model.prediction][0]} |",
        f"| latents | {model.autoencoder.options['latent_channels']} channels, {model.autoencoder.factor} times smaller |",
    ]
    if model.guidance is not None:
        facts.append(f"| guidance scale | {model.guidance:g} |")
    lines = [
        f"# {model.name}",
        "",
        "A latent diffusion model (arXiv:2112.10752).",
        "",
        "| | |",
        "| --- | --- |",
        *facts,
        "",
    ]
    if pipeline is not None:
        lines += [
            "```python",
            "from diffusers import DiffusionPipeline",
            "",
            loading(pipeline, "FOLDER"),
        ]
        call = CALLS.get(pipeline, 'pipe("a caption", num_inference_steps=50).images')
        return "\n".join([*lines, f"images = {call}", "```", ""])
    lines += [
        f"No pipeline of diffusers runs this model as it is. The program that trained it reads the folder by `{OWN_INDEX}`: "
        "`python sample.py ckpt=FOLDER`. In diffusers, its parts are its components:",
        "",
        "```python",
        "import torch",
        "from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel, UNet2DModel, VQModel",
        "",
        f"unet = {'UNet2DModel' if model.backbone.get('context_width') is None else 'UNet2DConditionModel'}"
        '.from_pretrained("FOLDER", subfolder="unet")',
        f"autoencoder = {'VQModel' if model.autoencoder.is_quantised else 'AutoencoderKL'}"
        f'.from_pretrained("FOLDER", subfolder="{autoencoder}")',
        'scheduler = DDIMScheduler.from_pretrained("FOLDER", subfolder="scheduler")',
        "```",
        "",
        "At each step `unet(latents, step, ...)` predicts, `scheduler.step` makes the step, and at the end "
        "`autoencoder.decode(latents / autoencoder.config.scaling_factor)` gives the images.",
        "",
    ]
    if masked:
        lines += [
            "The padding of captions is not attended to: give the tokenizer's `attention_mask` to the text encoder, and to the "
            "U-Net as `encoder_attention_mask`.",
            "",
        ]
    pooled = bool(model.backbone.get("pool_tokens"))
    if model.conditioned_by == "LabelConditioner":
        vector = ", and the vector, `class_labels` of shape `(B, width)`" if pooled else ""
        lines += [
            "`conditioner/conditioner.safetensors` has the embedding of each class (`embed.weight`): its row is the only token, "
            f"`encoder_hidden_states` of shape `(B, 1, width)`{vector}. The last row says nothing.",
            "",
        ]
    elif pooled:
        whose = "a caption's own tokens" if model.conditioned_by in TEXT_CLASSES else "the tokens"
        lines += [f"The mean of {whose} is the U-Net's `class_labels`, `(B, width)`.", ""]
    if model.beside is not None:
        names = ", ".join(model.beside.keys)
        lines += [f"The U-Net takes further channels behind those of the latents, in this order: {names}.", ""]
    elif model.backbone.get("concat_channels"):
        lines += ["The U-Net takes further channels behind those of the latents; `conditioner/` says which.", ""]
    return "\n".join(lines)


def _condition(conditioner: Mapping[str, Any]) -> str:
    """Describe the condition that a conditioner gives to the model, from its config node."""
    kind = class_name(conditioner)
    if kind != "Composite":
        return CONDITIONS.get(kind, kind)
    parts = conditioner["parts"]
    return " and ".join(_condition(part) for part in (parts.values() if isinstance(parts, Mapping) else parts))
