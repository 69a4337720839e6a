"""Text encoders for other programs: their tensors, configs and tokenizers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ldm.conditioner.base import tensor_to_text
from ldm.files.whole import write_whole
from ldm.interop.conditioner import names as layouts
from ldm.interop.translation import Translation

PREFIX = "encoder."
"""The beginning of the names of a frozen text encoder in its conditioner."""


@dataclass(frozen=True)
class PretrainedText:
    """A frozen text encoder and its tokenizer.

    Attributes:
        architecture: Its config in transformers.
        tensors: Its state dict by the names of transformers.
        tokenizer: The tokenizer as JSON.
    """

    architecture: Mapping[str, Any]
    tensors: Mapping[str, Tensor]
    tokenizer: str

    @staticmethod
    def of(state: Mapping[str, Tensor]) -> PretrainedText:
        """Return what the state dict of a `HuggingFaceConditioner` holds.

        Raises:
            ValueError: If it holds no encoder, since the model was trained on cached tokens.
        """
        text = tensor_to_text(state["_extra_state"])
        if not text:
            raise ValueError(
                "the model has no text encoder in it, since it was trained on cached tokens alone; it cannot be exported"
            )
        content = json.loads(text)
        tensors = {key.removeprefix(PREFIX): value for key, value in state.items() if key.startswith(PREFIX)}
        return PretrainedText(content["encoder"], tensors, content["tokenizer"])

    @property
    def is_clip(self) -> bool:
        """True where it is a text model of CLIP."""
        return str(self.architecture.get("model_type", "")).startswith("clip")

    @property
    def is_open_clip(self) -> bool:
        """True where it is one of OpenCLIP, as in Stable Diffusion 2: its activation tells."""
        return self.is_clip and self.architecture.get("hidden_act") == "gelu"

    @property
    def layers(self) -> int:
        """Number of layers."""
        return int(self.architecture["num_hidden_layers"])

    def open_clip(self) -> dict[str, Tensor]:
        """Return its tensors by the names of OpenCLIP."""
        return Translation(self.tensors, layouts.open_clip(self.layers), layout="OpenCLIP").write(self.tensors)


def transformer_tensors(node: Mapping[str, Any], state: Mapping[str, Tensor], *, ldm_bert: bool) -> dict[str, Tensor]:
    """Return the trained text transformer's tensors by the names of others.

    Args:
        node: The config node of its conditioner.
        state: The state dict of its conditioner.
        ldm_bert: Whether by those of diffusers, and not by those of CompVis.
    """
    tensors = {key.removeprefix("network."): value for key, value in state.items() if key.startswith("network.")}
    stems = layouts.ldm_bert(node["depth"]) if ldm_bert else layouts.x_transformer(node["depth"])
    return Translation(tensors, stems, layout="diffusers" if ldm_bert else "CompVis").write(tensors)


def write_tokenizer(tokenizer: str, folder: Path, *, max_tokens: int) -> None:
    """Write a tokenizer as transformers reads it.

    Args:
        tokenizer: The tokenizer as JSON, with the token that fills captions up.
        folder: The folder.
        max_tokens: Length to which captions are padded or cut.
    """
    content = json.loads(tokenizer)
    special = [token["content"] for token in content.get("added_tokens", []) if token.get("special")]
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "pad_token": content["padding"]["pad_token"],
        "model_max_length": max_tokens,
        "extra_special_tokens": [],
    }
    unknown = content["model"].get("unk_token")
    if unknown is not None:
        config["unk_token"] = unknown
    for role, marks in (("bos_token", ("start", "[CLS]")), ("eos_token", ("end", "[SEP]"))):
        found = [token for token in special if any(mark in token for mark in marks)]
        if found:
            config[role] = found[0]
    write_whole(folder / "tokenizer.json", tokenizer)
    write_whole(folder / "tokenizer_config.json", json.dumps(config, indent=2))
