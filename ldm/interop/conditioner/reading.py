"""Reading of conditioners, whichever they are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ldm.config import build, class_name
from ldm.interop import pipeline
from ldm.interop.conditioner.beside import TEXT_CLASSES, TEXT_PART, text_and_map
from ldm.interop.conditioner.text import (
    TextSource,
    read_bert,
    read_clip,
    read_open_clip,
    read_pretrained,
    read_transformer,
)
from ldm.interop.foreign import check_all_used
from ldm.interop.part import Part
from ldm.interop.source import read_weights
from ldm.nn.uninitialized import Uninitialized

TEXT: Mapping[str, tuple[str, Callable[..., Part]]] = {
    "clip": ("transformer.", read_clip),
    "open_clip": ("model.", read_open_clip),
    "bert": ("transformer.", read_bert),
}
"""Kind of a text encoder -> the beginning of its names behind that of the conditioner, and the function that reads it."""

CONDITIONER_FILE = "conditioner.safetensors"
"""Name of the file of a conditioner that other programs do not know, in the folder `conditioner`."""

DROP_RATE = 0.1
"""Fraction of the training images whose class is dropped, in models that have a class for that; 0 in others."""


def read_compvis_conditioner(
    kind: str, tensors: Mapping[str, Tensor], *, prefix: str, node: Mapping[str, Any], tokenizer: str | None
) -> Part:
    """Read the conditioner of a whole model of CompVis' programs.

    Args:
        kind: Its kind, a key of `conventions.EXPERIMENTS`.
        tensors: All tensors.
        prefix: The beginning of the names of the conditioner.
        node: The config node of the conditioner of the experiment whose conventions hold.
        tokenizer: Folder, file or hub name of the tokenizer; None: that of the published model.

    Raises:
        ValueError: If tensors are missing or misshaped, or the conditioner is of a kind that cannot be read.
        FileNotFoundError: If there is no tokenizer.
    """
    if kind in TEXT:
        own = node.get("parts", {}).get(TEXT_PART, node)  # beside a map, as in experiment=depth2img
        drop_rate = float(own.get("drop_rate", 0.0))
        inner, read = TEXT[kind]
        known = {"hidden_act": "quick_gelu"} if kind == "clip" else None  # that of OpenAI's, which this layout names so
        return read(TextSource(tensors, prefix + inner, known, tokenizer, drop_rate))
    if kind == "label":
        return read_label(tensors[f"{prefix}embedding.weight"], node, f"{prefix}embedding.weight")
    if kind == "segmentation":
        mapper = tensors[f"{prefix}channel_mapper.weight"]
        own = {**node, "num_classes": mapper.shape[1], "concat_channels": mapper.shape[0]}
        return _with_state(own, {"project.weight": mapper.flatten(1)}, {f"{prefix}channel_mapper.weight"}, {})
    if kind == "layout":
        network = read_transformer(TextSource(tensors, f"{prefix}transformer."))
        kept = {key: network.node[key] for key in ("width", "depth", "heads", "head_width", "vocabulary")}
        own = {**node, **kept, "max_boxes": (network.node["max_tokens"] - 2) // 3}
        return _with_state(own, network.weights, network.used, network.dropped)
    return _with_state(dict(node), {}, set(), {})


def read_text_encoder(tensors: Mapping[str, Tensor], config: Mapping[str, Any], *, tokenizer: str | None) -> Part:
    """Read the text encoder of a pipeline of diffusers.

    Args:
        tensors: Its tensors.
        config: Its config.json.
        tokenizer: Folder of its tokenizer.

    Raises:
        ValueError: If it is none that can be read.
        FileNotFoundError: If there is no tokenizer.
    """
    kind = (config.get("architectures") or ["?"])[0]
    source = TextSource(tensors, config=config, tokenizer=tokenizer)
    if kind == "LDMBertModel" or config.get("model_type") == "ldmbert":
        part = read_bert(source)
    elif str(config.get("model_type", "")).startswith("clip"):
        part = read_clip(source)
    else:
        raise ValueError(f"the text encoder is a {kind}, which cannot be read; CLIPTextModel and LDMBertModel can")
    check_all_used(tensors, part.used, part.dropped, layouts=f"{kind} of a pipeline of diffusers")
    return part


def read_own_conditioner(node: dict[str, Any], components: Mapping[str, Path], *, tokenizer: str | None) -> Part:
    """Read the conditioner of a model of ours that was written as components.

    Args:
        node: Its config node.
        components: The folders of the components, by name.
        tokenizer: Folder of the tokenizer; None: that of the components.

    Raises:
        ValueError: If tensors are missing, left over or misshaped.
        FileNotFoundError: If there is no tokenizer.
    """
    part = None if (found := text_and_map(node)) is None else found[0]
    own, prefix = (node, "") if part is None else (node["parts"][part], f"parts.{part}.")
    text = pipeline.one_of(components, pipeline.TEXT_ENCODERS)
    if class_name(own) not in TEXT_CLASSES:
        file = components.get("conditioner", Path()) / CONDITIONER_FILE
        return _with_state(node, read_weights(file).tensors if file.is_file() else {}, set(), {})
    if text is None:
        raise ValueError(
            f"the model reads text, but has none of the folders {', '.join(pipeline.TEXT_ENCODERS)}; copy all of it"
        )
    encoder = pipeline.read_component(text)
    words = tokenizer or str(components.get("tokenizer", text))
    source = TextSource(encoder.weights.tensors, config=encoder.config, tokenizer=words)
    read = read_bert(source) if class_name(own) == "TransformerConditioner" else read_pretrained(source, own)
    check_all_used(source.tensors, read.used, read.dropped, layouts=f"{encoder.kind} of transformers")
    return _with_state(node, {prefix + name: tensor for name, tensor in read.weights.items()}, read.used, read.dropped)


def read_label(table: Tensor, node: Mapping[str, Any], name: str) -> Part:
    """Read the embedding of classes. Its last row says nothing, unless it has just as many rows as `node` has classes.

    Args:
        table: A row for each class.
        node: The config node of a `LabelConditioner` whose conventions hold.
        name: Their name of the table.

    Returns:
        A conditioner with a row more than it has classes. Where there is none in the table, it is of zeros, and never used.
    """
    rows, width = table.shape
    own = {**node, "width": width, "vector_width": None}
    if rows == node["num_classes"]:  # as the paper's first model of ImageNet, which was never trained without a class
        table = torch.cat([table, table.new_zeros(1, width)])
        own |= {"drop_rate": 0.0}
    else:
        own |= {"num_classes": rows - 1, "drop_rate": node["drop_rate"] or DROP_RATE}
    return _with_state(own, {"embed.weight": table}, {name}, {})


def label_table(weights: Mapping[str, Tensor]) -> Tensor:
    """Return the embedding of classes as `read_label` reads it: without a last row of zeros, which stands for none."""
    table = weights["embed.weight"]
    return table if table[-1].any() else table[:-1]


def _with_state(
    node: dict[str, Any], weights: Mapping[str, Tensor], used: set[str], dropped: Mapping[str, str]
) -> Part:
    """Return a part that takes its other weights, like names of classes, from a new conditioner.

    Raises:
        ValueError: If a new conditioner has weights beside these, which nothing says.
    """
    with Uninitialized():
        fresh = build(node).state_dict()
    if unsaid := sorted(name for name in fresh.keys() - weights.keys() if not name.endswith("_extra_state")):
        raise ValueError(f"nothing in the file says {unsaid} of the conditioner {node['_target_']}")
    return Part(node, {**fresh, **weights}, used, dropped)
