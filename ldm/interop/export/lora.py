"""The change that a LoRA has trained, alone, in the layout that user interfaces and diffusers read."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from ldm.files.tensors import write_tensors
from ldm.interop.export.base import ExportFormat
from ldm.interop.export.model import ExportedAutoencoder, ExportedModel
from ldm.interop.unet import diffusers as unet_layout

LORA_FILE = "lora.safetensors"
"""Name of the file."""

PREFIX = "lora_unet_"
"""The beginning of the names of a U-Net's layers in this layout."""

VERSIONS = {768: "sd_v1", 1024: "sd_v2"}
"""Channels of the tokens -> the version of Stable Diffusion that has so many, as user interfaces call it."""


class LoRAFormat(ExportFormat):
    """One .safetensors with the matrices of each adapted layer and their alpha, named as by kohya's training scripts."""

    def write_model(self, model: ExportedModel, folder: Path) -> str:
        """See `ExportFormat.write_model`."""
        if model.adapter is None:
            raise ValueError(
                f"{model.name} was trained without an adapter, so that there is no LoRA to write; train one with "
                "experiment=finetune_lora, or write the whole model: format=compvis or format=diffusers"
            )
        if model.backbone.get("context_width") is None:
            raise ValueError(
                "this layout has names for layers of transformer blocks, and a U-Net without backbone.context_width has none; "
                "write the whole model, the change in its weights: format=compvis or format=diffusers"
            )
        layout = unet_layout.translation(model.backbone, linear=model.linear)
        theirs = {tie.ours[0]: tie.theirs for tie in layout.ties}
        rank = 0
        tensors: dict[str, Tensor] = {}
        for layer, change in model.adapter.changes.items():
            name = PREFIX + theirs[f"{layer}.weight"].removesuffix(".weight").replace(".", "_")
            tensors[f"{name}.lora_down.weight"] = change.down
            tensors[f"{name}.lora_up.weight"] = change.up
            tensors[f"{name}.alpha"] = change.down.new_tensor(model.adapter.alpha)
            rank = change.down.shape[0]
        told = {"ss_network_module": "networks.lora", "ss_network_dim": str(rank)}
        told["ss_network_alpha"] = f"{model.adapter.alpha}"
        if version := VERSIONS.get(model.backbone["context_width"]):
            told["ss_base_model_version"] = version
        file = folder / LORA_FILE
        write_tensors(file, tensors, told)
        return (
            f"{file}: copy it to where a user interface has its LoRA files, or give it to diffusers: "
            f'pipeline.load_lora_weights("{folder}", weight_name="{LORA_FILE}")'
        )

    def write_autoencoder(self, autoencoder: ExportedAutoencoder, folder: Path, *, name: str) -> str:
        """See `ExportFormat.write_autoencoder`."""
        raise ValueError(
            f"{name} holds an autoencoder, which has no LoRA; write it with format=compvis or format=diffusers"
        )
