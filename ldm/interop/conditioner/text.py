"""Reading of text encoders: CLIP's in two layouts, and the transformer that the paper trains with the U-Net, in two."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Size, Tensor

from ldm.conditioner.huggingface import HuggingFaceConditioner
from ldm.conditioner.transformer import TransformerConditioner, TransformerEncoder
from ldm.interop.conditioner import names as layouts
from ldm.interop.part import Part
from ldm.interop.translation import Stem, Translation, stem
from ldm.nn.uninitialized import Uninitialized

CLIP, OPEN_CLIP, BERT = (
    "openai/clip-vit-large-patch14",
    "laion/CLIP-ViT-H-14-laion2B-s32B-b79K",
    "google-bert/bert-base-uncased",
)
"""Names on the hub of the models whose tokenizers are taken where none is named."""

UNUSED = "{} takes no part in making images"

CLIP_PREFIX = "text_model."
"""The beginning of the names of CLIP's text model, in files that older versions of transformers wrote."""

HEAD_WIDTH = 64
"""Channels of each attention head of all published text encoders."""

OPEN_CLIP_WIDTH, OPEN_CLIP_LAYERS = 1024, 24
"""Width and layers of OpenCLIP ViT-H/14, of which Stable Diffusion 2 uses all layers but the last."""

OPEN_CLIP_PADDING = "!"
"""The padding token of OpenCLIP; its number is 0."""


@dataclass(frozen=True)
class TextSource:
    """A text encoder among tensors, and what lies beside it.

    Attributes:
        tensors: Tensors by name; there may be others.
        prefix: The beginning of the names of the text encoder.
        config: Its config.json; None: its architecture is that of the published model with these shapes.
        tokenizer: Folder or hub name of the tokenizer; None: that of the published model.
        drop_rate: Fraction of the training captions that are replaced by "", for training that goes on from it.
    """

    tensors: Mapping[str, Tensor]
    prefix: str = ""
    config: Mapping[str, Any] | None = None
    tokenizer: str | None = None
    drop_rate: float = 0.1

    @property
    def own(self) -> dict[str, Tensor]:
        """Its tensors, without the beginning of their names."""
        begin = self.prefix
        return {name.removeprefix(begin): tensor for name, tensor in self.tensors.items() if name.startswith(begin)}

    @property
    def shapes(self) -> dict[str, Size]:
        """The shapes of its tensors, without the beginning of their names."""
        return {name: tensor.shape for name, tensor in self.own.items()}


def read_clip(source: TextSource) -> Part:
    """Read CLIP's text model in the layout of transformers, as Stable Diffusion 1.x and pipelines of diffusers have it.

    Args:
        source: Its tensors, and what lies beside them.

    Raises:
        ValueError: If tensors are missing or misshaped.
        FileNotFoundError: If there is no tokenizer.
    """
    own = source.own
    inner = CLIP_PREFIX if any(name.startswith(CLIP_PREFIX) for name in own) else ""
    shapes = {name.removeprefix(inner): tensor.shape for name, tensor in own.items()}
    layers = _layers(shapes, r"encoder\.layers\.(\d+)\.")
    architecture = {
        **_architecture(shapes, "embeddings.token_embedding.weight", "embeddings.position_embedding.weight"),
        "intermediate_size": _shape(shapes, "encoder.layers.0.mlp.fc1.weight")[0],
        "num_hidden_layers": layers,
        **_unseen_options(source.config or {}),
    }
    quick = architecture["hidden_act"] == "quick_gelu"
    stems = layouts.hugging_face_clip(layers, inner=inner)
    pad_token = None if quick or source.tokenizer is not None else OPEN_CLIP_PADDING
    part = _hugging_face(architecture, source, stems, CLIP if quick else OPEN_CLIP, pad_token=pad_token)
    unused = ("text_projection.weight", "logit_scale")
    dropped = {name: _unused(name) for name in own if name in unused}
    dropped |= {name: "a table of places, 0, 1, 2, ..." for name in own if name.endswith("position_ids")}
    return Part(part.node, part.weights, part.used, {source.prefix + name: why for name, why in dropped.items()})


def read_pretrained(source: TextSource, node: Mapping[str, Any]) -> Part:
    """Read a frozen text encoder of any architecture in the layout of transformers, for a conditioner that is known.

    Args:
        source: See `read_clip`; with its config.json and a tokenizer.
        node: The config node of the `HuggingFaceConditioner`.

    Raises:
        ValueError: See `read_clip`.
        FileNotFoundError: See `read_clip`.
    """
    conditioner = HuggingFaceConditioner(**{key: value for key, value in node.items() if key != "_target_"})
    with Uninitialized():
        conditioner.adopt(dict(source.config or {}), source.tokenizer or str(node["name"]))
    assert conditioner.encoder is not None
    inner = CLIP_PREFIX if any(name.startswith(CLIP_PREFIX) for name in source.tensors) else ""
    stems = [stem(name, inner + name) for name in conditioner.encoder.state_dict()]
    reading = Translation(conditioner.encoder, stems, layout="transformers").read(source.tensors)
    weights = {f"encoder.{name}": tensor for name, tensor in reading.weights.items()}
    return Part(dict(node), {**weights, "_extra_state": conditioner.get_extra_state()}, reading.used)


def read_open_clip(source: TextSource) -> Part:
    """Read CLIP's text model in the layout of OpenCLIP, as single files of Stable Diffusion 2.x have it.

    Its last layer is left out, since the one before it is used (`layer: penultimate` there); the final norm is not. Files that
    were made of folders of diffusers do not have that layer: they have 23 of 24, and no `text_projection`.

    Args:
        source: See `read_clip`.

    Raises:
        ValueError: See `read_clip`.
        FileNotFoundError: See `read_clip`.
    """
    shapes = source.shapes
    present = _layers(shapes, r"transformer\.resblocks\.(\d+)\.")
    kept = present - 1 if _has_last_layer(shapes, present) else present
    architecture = {
        **_architecture(shapes, "token_embedding.weight", "positional_embedding"),
        "intermediate_size": _shape(shapes, "transformer.resblocks.0.mlp.c_fc.weight")[0],
        "num_hidden_layers": kept,
        "hidden_act": "gelu",
        **_unseen_options(source.config or {}),
    }
    part = _hugging_face(architecture, source, layouts.open_clip(kept), OPEN_CLIP, pad_token=OPEN_CLIP_PADDING)
    last = f"transformer.resblocks.{kept}."
    dropped = {name: "the last layer, behind the one whose output is used" for name in shapes if name.startswith(last)}
    dropped |= {name: _unused(name) for name in shapes if name in ("text_projection", "logit_scale")}
    dropped |= {name: "a mask that is computed" for name in shapes if name == "attn_mask"}
    return Part(part.node, part.weights, part.used, {source.prefix + name: why for name, why in dropped.items()})


def read_bert(source: TextSource) -> Part:
    """Read the text transformer of the paper, in the layout of CompVis (x-transformers) or of diffusers (LDMBertModel).

    Args:
        source: See `read_clip`; without a config.json, heads have 64 channels.

    Raises:
        ValueError: See `read_clip`.
        FileNotFoundError: See `read_clip`.
    """
    network = read_transformer(source)
    node = {
        "_target_": "ldm.conditioner.transformer.TransformerConditioner",
        **network.node,
        "mask_padding": False,
        "drop_rate": source.drop_rate,
    }
    with Uninitialized():
        conditioner = TransformerConditioner(**{key: value for key, value in node.items() if key != "_target_"})
    conditioner.adopt_tokenizer(source.tokenizer or BERT)
    weights = {**network.weights, "_extra_state": conditioner.get_extra_state()}
    return Part(node, weights, network.used, network.dropped)


def read_transformer(source: TextSource) -> Part:
    """Read the network alone of the transformer that is trained with the U-Net, as conditioners have it (`network`).

    Args:
        source: See `read_bert`.

    Returns:
        A part whose node has the options of the network, and no `_target_`.

    Raises:
        ValueError: See `read_clip`.
    """
    shapes = source.shapes
    theirs = "model.embed_tokens.weight" in shapes
    embed = "model.embed_tokens.weight" if theirs else "token_emb.weight"
    position = "model.embed_positions.weight" if theirs else "pos_emb.emb.weight"
    if theirs:
        depth, query = _layers(shapes, r"model\.layers\.(\d+)\."), "model.layers.0.self_attn.q_proj.weight"
    else:
        depth, query = _layers(shapes, r"attn_layers\.layers\.(\d+)\.") // 2, "attn_layers.layers.0.1.to_q.weight"
    (vocabulary, width), inner = _shape(shapes, embed), _shape(shapes, query)[0]
    heads = (source.config or {}).get("encoder_attention_heads", max(1, inner // HEAD_WIDTH))
    options = {
        "width": width,
        "depth": depth,
        "heads": heads,
        "head_width": inner // heads,
        "max_tokens": _shape(shapes, position)[0],
        "vocabulary": vocabulary,
    }
    with torch.device("meta"):
        network = TransformerEncoder(
            vocabulary,
            options["max_tokens"],
            **{key: options[key] for key in ("width", "depth", "heads", "head_width")},
        )
    stems = layouts.ldm_bert(depth) if theirs else layouts.x_transformer(depth)
    layout = "diffusers" if theirs else "CompVis"
    reading = Translation(network, stems, layout=layout).read(source.tensors, prefix=source.prefix)
    dropped = {
        source.prefix + name: _unused("the language model's head") for name in shapes if name.startswith("to_logits.")
    }
    weights = {f"network.{name}": tensor for name, tensor in reading.weights.items()}
    return Part(options, weights, reading.used, dropped)


def _hugging_face(
    architecture: dict[str, Any], source: TextSource, stems: Iterable[Stem], usual: str, *, pad_token: str | None = None
) -> Part:
    """Return a `HuggingFaceConditioner` with this architecture, whose weights are found by stems, and a tokenizer."""
    penultimate = usual == OPEN_CLIP and architecture["num_hidden_layers"] == OPEN_CLIP_LAYERS - 1
    node = {
        "_target_": "ldm.conditioner.huggingface.HuggingFaceConditioner",
        "name": usual,
        "width": architecture["hidden_size"],
        "max_tokens": architecture["max_position_embeddings"],
        "mask_padding": False,
        "layer": -2 if penultimate else -1,  # of the model of this name, not of what is left of it here
        "pad_token": pad_token,
        "drop_rate": source.drop_rate,
    }
    conditioner = HuggingFaceConditioner(**{key: value for key, value in node.items() if key != "_target_"})
    with Uninitialized():
        conditioner.adopt({"model_type": "clip_text_model", **architecture}, source.tokenizer or usual)
    assert conditioner.encoder is not None
    reading = Translation(conditioner.encoder, stems, layout="CLIP's text model").read(
        source.tensors, prefix=source.prefix
    )
    weights = {f"encoder.{name}": tensor for name, tensor in reading.weights.items()}
    return Part(node, {**weights, "_extra_state": conditioner.get_extra_state()}, reading.used)


def _has_last_layer(shapes: Mapping[str, Size], present: int) -> bool:
    """Return whether a text tower of OpenCLIP still has the last layer, which is not used."""
    if _shape(shapes, "token_embedding.weight")[1] == OPEN_CLIP_WIDTH and present >= OPEN_CLIP_LAYERS - 1:
        return present >= OPEN_CLIP_LAYERS
    return "text_projection" in shapes


def _architecture(shapes: Mapping[str, Any], tokens: str, places: str) -> dict[str, Any]:
    """Return the options of a CLIP text encoder that follow from its embeddings."""
    vocabulary, width = _shape(shapes, tokens)
    return {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "max_position_embeddings": _shape(shapes, places)[0],
        "num_attention_heads": max(1, width // HEAD_WIDTH),
        "hidden_act": "quick_gelu" if width == 768 else "gelu",
        "bos_token_id": vocabulary - 2,
        "eos_token_id": vocabulary - 1,
        "pad_token_id": vocabulary - 1,
    }


def _unseen_options(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options in a config.json that do not follow from shapes."""
    keys = ("num_attention_heads", "hidden_act", "layer_norm_eps", "bos_token_id", "eos_token_id", "pad_token_id")
    return {key: config[key] for key in keys if key in config}


def _layers(names: Collection[str], pattern: str) -> int:
    """Return the number of layers. Raises ValueError if there are none."""
    found = {int(match[1]) for name in names if (match := re.match(pattern, name))}
    if not found:
        raise ValueError(f"the text encoder has no layers; its tensors are called {sorted(names)[:5]}")
    return max(found) + 1


def _shape(shapes: Mapping[str, Any], name: str) -> Any:
    """Return the shape of a tensor. Raises ValueError if it is missing."""
    if name not in shapes:
        raise ValueError(f"the text encoder lacks {name}; its tensors are called {sorted(shapes)[:5]}")
    return shapes[name]


def _unused(name: str) -> str:
    return UNUSED.format(name)
