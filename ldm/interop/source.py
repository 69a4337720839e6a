"""Sources of other people's weights: a file, a file in parts, or a folder, with what lies beside it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ldm.interop.pickled import read_pickled

INDEX = ".index.json"
"""The ending of the table of a file in parts."""

PICKLED = (".ckpt", ".pt", ".pth", ".bin")
"""Endings of the files that `torch.save` writes."""

WRAPPERS = ("state_dict", "model", "module")
"""Names under which programs keep the weights, beside other things."""

COMPONENT_NAMES = ("diffusion_pytorch_model", "model", "pytorch_model")
"""Names of files of weights in the folders of diffusers and transformers, without their endings; the first is preferred."""


@dataclass(frozen=True)
class Weights:
    """Tensors by name; they stay on disk until they are used.

    Attributes:
        file: The file, or the table of its parts.
        tensors: Name -> tensor.
        metadata: Texts that a .safetensors file holds beside them.
    """

    file: Path
    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str]


def read_weights(file: Path) -> Weights:
    """Read a file of weights: .safetensors, one in parts (.safetensors.index.json), or one that `torch.save` wrote.

    Args:
        file: The file.

    Raises:
        ValueError: If it is damaged, holds no tensors, or its ending is not known.
    """
    if file.name.endswith(INDEX):
        return _read_parts(file)
    if file.suffix == ".safetensors":
        return _read_safetensors(file)
    if file.suffix not in PICKLED:
        raise ValueError(
            f"{file} has an unknown ending; weights are files that end in .safetensors, {', '.join(PICKLED)}"
        )
    content = read_pickled(file)
    for name in WRAPPERS:
        if isinstance(content.get(name), dict) and not any(isinstance(value, Tensor) for value in content.values()):
            content = content[name]
    tensors = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
    if not tensors:
        raise ValueError(f"{file} holds no tensors by name; its keys are {sorted(map(str, content))[:10]}")
    return Weights(file, tensors, {})


def _read_safetensors(file: Path) -> Weights:
    try:
        with safe_open(file, framework="pt") as content:
            tensors = {name: content.get_tensor(name) for name in content.keys()}  # noqa: SIM118
            return Weights(file, tensors, content.metadata() or {})
    except SafetensorError as error:
        raise ValueError(f"{file} is not a readable safetensors file: {error}; copy it again") from error


def _read_parts(index: Path) -> Weights:
    """Read all parts of a file, and check that they hold what their table says."""
    table: dict[str, str] = json.loads(index.read_text(encoding="utf-8")).get("weight_map", {})
    tensors: dict[str, Tensor] = {}
    for part in sorted(set(table.values())):
        file = index.parent / Path(part).name
        if not file.is_file():
            raise ValueError(f"{index} names the part {part}, which is not beside it; copy all parts")
        tensors |= read_weights(file).tensors
    if missing := sorted(table.keys() - tensors.keys()):
        raise ValueError(f"the parts of {index} do not hold {missing[:5]}; copy all parts again")
    if not tensors:
        raise ValueError(f"{index} names no tensors (weight_map)")
    return Weights(index, tensors, {})


def component_file(folder: Path) -> Path | None:
    """Return the file of weights in a folder of diffusers or transformers; None where there is none.

    Of several the one in fp32 and in .safetensors is taken, before those of a variant, like .fp16.
    """
    return next((file for file in _candidates(folder) if file.is_file()), None)


def _candidates(folder: Path) -> Iterator[Path]:
    for variant in ("", *_variants(folder)):
        for ending in (".safetensors", ".bin"):
            for name in COMPONENT_NAMES:
                yield folder / f"{name}{variant}{ending}"
                yield folder / f"{name}{ending}{variant}{INDEX}"
                yield folder / f"{name}{variant}{ending}{INDEX}"


def _variants(folder: Path) -> Sequence[str]:
    """Return the variants of files in a folder, like ".fp16", in the order of their names."""
    stems = (file.name.split(".") for file in folder.iterdir() if file.is_file())
    return sorted(
        {
            f".{parts[1]}"
            for parts in stems
            if len(parts) > 2 and parts[0] in COMPONENT_NAMES and parts[1] not in ("safetensors", "bin", "index")
        }
    )


def read_json(file: Path) -> dict[str, Any]:
    """Return the object in a JSON file.

    Raises:
        ValueError: If there is none.
    """
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{file} cannot be read as JSON: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{file} holds no JSON object")
    return found


def yaml_beside(file: Path) -> dict[str, Any] | None:
    """Return the config of CompVis' programs that lies beside a checkpoint; None where there is none.

    It has the name of the checkpoint, or is the `config.yaml` of its folder.
    """
    for place in (file.with_suffix(".yaml"), file.with_name("config.yaml")):
        if place.is_file() and (found := read_yaml(place)) is not None:
            return found
    return None


def read_yaml(file: Path) -> dict[str, Any] | None:
    """Return a config of CompVis' programs; None where the file is another config.

    Raises:
        ValueError: If the file cannot be read.
    """
    try:
        found: Any = OmegaConf.to_container(OmegaConf.load(file))
    except Exception as error:
        raise ValueError(f"{file} cannot be read as YAML: {str(error).partition(chr(10))[0]}") from error
    model = found.get("model") if isinstance(found, dict) else None
    return found if isinstance(model, dict) and "params" in model else None
