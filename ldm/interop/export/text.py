"""Text encoders for other programs: their tensors, configs and tokenizers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ldm.conditioner.base import tensor_to_text
from ldm.interop.conditioner import names as layouts
from ldm.interop.export.model import ExportedModel
from ldm.interop.translation import Translation
from ldm.pretrained.tokenizer_folder import tokenizer_folder

PREFIX = "encoder."
"""The beginning of the names of a frozen text encoder in its conditioner."""

BERT_WORDS: Mapping[str, int] = {"[PAD]": 0, "[UNK]": 100, "[CLS]": 101, "[SEP]": 102, "[MASK]": 103}
"""Words of bert-base-uncased and their numbers, by which it is known."""


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
        """Return the content of the state dict of a `HuggingFaceConditioner`.

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


def tokenizer_text(model: ExportedModel) -> str:
    """Return the tokenizer of a model that reads captions, as JSON."""
    if model.conditioned_by == "HuggingFaceConditioner":
        return PretrainedText.of(model.conditioner_weights).tokenizer
    return tensor_to_text(model.conditioner_weights["_extra_state"])


def is_bert_tokenizer(tokenizer: str) -> bool:
    """Return whether a tokenizer, as JSON, is that of bert-base-uncased, which CompVis' programs take for granted."""
    words = json.loads(tokenizer)["model"].get("vocab", {})
    known = all(word in words and words[word] == number for word, number in BERT_WORDS.items())
    return known and tokenizer_folder(tokenizer, max_tokens=1).class_name == "BertTokenizer"
