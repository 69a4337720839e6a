"""Reading of LoRA files: the change of each layer, and an account of all tensors."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from ldm.interop.foreign import CONFIG_KEY
from ldm.interop.lora.names import ALPHA, DOWN, TEXT, UNET, UP, WRAPPER, LoRAName, other_kind, read_name
from ldm.interop.source import Weights, read_weights
from ldm.interop.translation import listed
from ldm.optim.lora import LowRank
from ldm.options.rule import Real, check

PEFT_CONFIG = "lora_adapter_metadata"
"""The key of the options of peft, in the metadata of diffusers' files; each has the name of its network before it."""

PEFT_FILE = "adapter_config.json"
"""The file beside a LoRA in a folder of peft, with the same options."""

BASE_VERSION = "ss_base_model_version"
"""The key of the version of Stable Diffusion that a LoRA was trained on, in the metadata of kohya's files."""


class LayerPlace(NamedTuple):
    """A layer of a network.

    Attributes:
        network: The network, as `names` calls it.
        layer: The layer, with "_" in place of each dot.
    """

    network: str
    layer: str


@dataclass(frozen=True)
class LayerChange:
    """The change of one layer.

    Attributes:
        name: The name of its matrix A in the file.
        matrices: The two matrices.
        strength: The number that their product is multiplied with: alpha / rank.
    """

    name: str
    matrices: LowRank
    strength: float


@dataclass(frozen=True)
class LoRAFile:
    """A LoRA file.

    Attributes:
        file: The file.
        changes: Layer -> its change.
        version: The version of Stable Diffusion that its metadata names; None: none is named.
    """

    file: Path
    changes: Mapping[LayerPlace, LayerChange]
    version: str | None


def read_lora(file: Path) -> LoRAFile:
    """Read a LoRA file of kohya's scripts, of diffusers or of peft. No code is run.

    Args:
        file: The file.

    Raises:
        ValueError: If it is no LoRA, is of a kind that is not read, or has a tensor that belongs to no pair of matrices.
    """
    weights = read_weights(file)
    _check_kind(weights)
    names = {name: found for name in weights.tensors if (found := read_name(name)) is not None}
    if strange := sorted(weights.tensors.keys() - names.keys()):
        raise ValueError(
            f"{file} has {len(strange)} tensors that are no part of a LoRA: {listed(strange)}; give a file with the two matrices "
            "of each layer alone"
        )
    parts: dict[LayerPlace, dict[str, str]] = {}
    for name, found in names.items():
        known = parts.setdefault(LayerPlace(found.network, found.layer), {})
        if found.part in known:
            raise ValueError(f"{file} says the same of one layer twice: {known[found.part]} and {name}")
        known[found.part] = name
    if alone := [name for known in parts.values() if not {DOWN, UP} <= known.keys() for name in known.values()]:
        raise ValueError(
            f"{file} has {len(alone)} tensors of layers of which a matrix is missing: {listed(sorted(alone))}; copy it again"
        )
    options = _peft_options(weights)
    changes = {place: _change(weights, known, names[known[DOWN]], options) for place, known in parts.items()}
    return LoRAFile(file, changes, weights.metadata.get(BASE_VERSION))


def _check_kind(weights: Weights) -> None:
    """Raise ValueError where a file is of a kind that is not read, or holds no LoRA."""
    if CONFIG_KEY in weights.metadata:
        raise ValueError(
            f"{weights.file} is a whole model of this project; give it as ckpt=. Its LoRA alone, if it was trained with "
            f"adapter=lora, is written by python -m ldm.interop.export ckpt={weights.file} out=exported format=lora"
        )
    for name in sorted(weights.tensors):
        if (kind := other_kind(name)) is not None:
            raise ValueError(
                f"{weights.file} holds {kind} ({name}), which is not read; give a LoRA with two matrices for each layer "
                "(lora_down and lora_up, or lora_A and lora_B)"
            )
    if not any((found := read_name(name)) is not None and found.part != ALPHA for name in weights.tensors):
        raise ValueError(
            f"{weights.file} holds no LoRA (lora_down and lora_up, or lora_A and lora_B): its tensors are called "
            f"{listed(sorted(weights.tensors))}; a whole model is given as ckpt="
        )


def _change(weights: Weights, known: Mapping[str, str], name: LoRAName, options: Mapping[str, Any]) -> LayerChange:
    """Return the change of one layer, whose tensors are `known`."""
    down, up = weights.tensors[known[DOWN]], weights.tensors[known[UP]]
    if down.ndim < 2 or up.ndim < 2 or up.shape[1] != down.shape[0] or up.shape[2:].numel() != 1:
        raise ValueError(
            f"{weights.file}: {known[DOWN]} {tuple(down.shape)} and {known[UP]} {tuple(up.shape)} are no matrices with a "
            "product; copy the file again"
        )
    rank = down.shape[0]
    if ALPHA in known:
        strength = _number(weights, known[ALPHA]) / rank
    else:
        patterns: Mapping[str, Any] = options.get(f"{name.network}.alpha_pattern") or {}
        single = (value for pattern, value in patterns.items() if _is_meant(pattern, name.dotted))
        alpha = next(single, options.get(f"{name.network}.lora_alpha", rank))
        check(f"{weights.file}: lora_alpha", alpha, Real())
        strength = alpha / (math.sqrt(rank) if options.get(f"{name.network}.use_rslora") else rank)
    return LayerChange(known[DOWN], LowRank(down, up), strength)


def _number(weights: Weights, name: str) -> float:
    """Return the number in a tensor."""
    tensor: Tensor = weights.tensors[name]
    if tensor.numel() != 1:
        raise ValueError(f"{weights.file}: {name} is one number, not {tuple(tensor.shape)}")
    return float(tensor)


def _is_meant(pattern: str, layer: str) -> bool:
    """Return whether a pattern of peft means a layer: it is the end of its name.

    Raises:
        ValueError: If it is no name; to peft it is a regular expression.
    """
    if re.fullmatch(r"[\w.]+", pattern) is None:
        raise ValueError(
            f"alpha_pattern of a LoRA has {pattern!r}, which is no name of layers; such patterns are not read"
        )
    return f".{layer}".endswith(f".{pattern}")


def _peft_options(weights: Weights) -> dict[str, Any]:
    """Return peft's options by network, like `unet.lora_alpha`, of the metadata or of a folder of peft; empty: there are none."""
    text = weights.metadata.get(PEFT_CONFIG)
    if text is not None:
        return _json(text, f"{weights.file}: {PEFT_CONFIG} in its metadata")
    if not all(name.startswith(WRAPPER) for name in weights.tensors):
        return {}
    beside = weights.file.with_name(PEFT_FILE)
    if not beside.is_file():
        raise ValueError(
            f"{weights.file} was written by peft, and {PEFT_FILE}, which has its strength, is not beside it"
        )
    options = _json(beside.read_text(encoding="utf-8"), str(beside))
    return {f"{network}.{name}": value for network in (UNET, TEXT) for name, value in options.items()}


def _json(text: str, place: str) -> dict[str, Any]:
    """Return the entries of a JSON object; none where it is of another type."""
    try:
        found = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{place} is no JSON: {error}") from error
    return found if isinstance(found, dict) else {}
