"""The change that a LoRA has trained, alone, in the layout that user interfaces and diffusers read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ldm.config import build_trusted
from ldm.files.tensors import write_tensors
from ldm.interop.export.base import ExportFormat
from ldm.interop.export.model import BACKBONE, ExportedAutoencoder, has_linear_projections, inside, unet_node
from ldm.interop.unet import diffusers as unet_layout
from ldm.optim.lora import ADAPTER_KEY, low_rank_changes

LORA_FILE = "lora.safetensors"
"""Name of the file."""

PREFIX = "lora_unet_"
"""The beginning of the names of a U-Net's layers in this layout."""

VERSIONS = {768: "sd_v1", 1024: "sd_v2"}
"""Channels of the tokens -> the version of Stable Diffusion that has so many, as user interfaces call it."""


class LoRAFormat(ExportFormat):
    """One .safetensors with the matrices of each adapted layer and their alpha, named as by kohya's training scripts.

    It holds nothing of the prediction, the schedule or the autoencoder, which may be any.
    """

    def write_model(self, node: Mapping[str, Any], weights: Mapping[str, Tensor], folder: Path, *, name: str) -> str:
        """See `ExportFormat.write_model`."""
        if ADAPTER_KEY not in node:
            raise ValueError(
                f"{name} was trained without an adapter, so that there is no LoRA to write; train one with "
                "experiment=finetune_lora, or write the whole model: format=compvis or format=diffusers"
            )
        backbone = unet_node(node)
        if backbone.get("context_width") is None:
            raise ValueError(
                "this layout has names for layers of transformer blocks, and a U-Net without backbone.context_width has none; "
                "write the whole model, the change in its weights: format=compvis or format=diffusers"
            )
        alpha: int = build_trusted(node[ADAPTER_KEY]).alpha
        layout = unet_layout.translation(backbone, linear=has_linear_projections(backbone))
        theirs = {tie.ours[0]: tie.theirs for tie in layout.ties}
        rank = 0
        tensors: dict[str, Tensor] = {}
        for layer, change in inside(low_rank_changes(weights), BACKBONE).items():
            stem = PREFIX + theirs[f"{layer}.weight"].removesuffix(".weight").replace(".", "_")
            tensors[f"{stem}.lora_down.weight"] = change.down
            tensors[f"{stem}.lora_up.weight"] = change.up
            tensors[f"{stem}.alpha"] = change.down.new_tensor(alpha)
            rank = change.down.shape[0]
        metadata = {"ss_network_module": "networks.lora", "ss_network_dim": str(rank)}
        metadata["ss_network_alpha"] = f"{alpha}"
        if version := VERSIONS.get(backbone["context_width"]):
            metadata["ss_base_model_version"] = version
        file = folder / LORA_FILE
        write_tensors(file, tensors, metadata)
        return (
            f"{file}: copy it to where a user interface has its LoRA files, or give it to diffusers: "
            f'pipeline.load_lora_weights("{folder}", weight_name="{LORA_FILE}")'
        )

    def write_autoencoder(self, autoencoder: ExportedAutoencoder, folder: Path, *, name: str) -> str:
        """See `ExportFormat.write_autoencoder`."""
        raise ValueError(
            f"{name} holds an autoencoder, which has no LoRA; write it with format=compvis or format=diffusers"
        )
