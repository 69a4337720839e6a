"""The parts of a task that training does not change: they stand once beside a run's checkpoints, not in each of them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from ldm.files.tensors import write_tensors

FROZEN_KEY = "frozen"
"""The key in a checkpoint of the names of the tensors that it leaves out, and of the file beside it that holds them."""


class FrozenParts:
    """The frozen tensors of a module: parameters without gradients, and what belongs to modules that have no others.

    Args:
        module: The module; each of its parameters stays frozen, or not, as it is now.
    """

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self.names = frozen_names(module)
        self._file: str | None = None

    @property
    def file(self) -> str:
        """The name of the file that holds them, which tells their content; computed once."""
        if self._file is None:
            self._file = f"frozen-{digest_of(self._tensors())}.safetensors"
        return self._file

    def leave_out(self, checkpoint: dict[str, Any]) -> None:
        """Take them out of a checkpoint's `state_dict`, for `store` to write them."""
        if self.names:
            checkpoint[FROZEN_KEY] = {"file": self.file, "names": sorted(self.names), "tensors": self._tensors()}
            state = checkpoint["state_dict"]
            checkpoint["state_dict"] = {name: state[name] for name in state if name not in self.names}

    def fill_in(self, checkpoint: dict[str, Any]) -> None:
        """Put the module's own into a checkpoint that has none.

        Raises:
            ValueError: If the checkpoint was written with others.
        """
        if FROZEN_KEY not in checkpoint:
            return
        if checkpoint[FROZEN_KEY]["file"] != self.file:
            raise ValueError(
                "what is frozen (the autoencoder, a text encoder) is not what it was when this run began: its checkpoint "
                f"belongs to {checkpoint[FROZEN_KEY]['file']}, not to {self.file}; give the same autoencoder.ckpt and "
                "conditioner.name, or train anew under another name="
            )
        checkpoint["state_dict"] = {**checkpoint["state_dict"], **self._tensors()}

    def _tensors(self) -> dict[str, Tensor]:
        state = self._module.state_dict()
        return {name: state[name] for name in sorted(self.names)}


def frozen_names(module: nn.Module) -> set[str]:
    """Return the names, as in the module's state, of all that training does not change."""
    frozen = {name for name, part in module.named_parameters() if not part.requires_grad}
    whole = tuple(
        f"{prefix}." if prefix else ""
        for prefix, part in module.named_modules()
        if list(part.parameters()) and not any(weight.requires_grad for weight in part.parameters())
    )
    names = {name for name, value in module.state_dict().items() if isinstance(value, Tensor)}
    inside = {name for name in names if whole and name.startswith(whole)}
    return {name for name in frozen | inside if not name.endswith("_extra_state")}


def store(folder: Path, checkpoint: dict[str, Any]) -> None:
    """Write the frozen tensors of a checkpoint into a folder, unless they are there, and leave their file's name in it."""
    if (frozen := checkpoint.get(FROZEN_KEY)) is not None:
        tensors = frozen.pop("tensors")
        if not (folder / frozen["file"]).is_file():
            write_tensors(folder / frozen["file"], tensors)


def whole_state(file: Path, checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the `state_dict` of a checkpoint that lies in a file, with the frozen tensors from beside it.

    Raises:
        ValueError: If those are missing, damaged or others.
    """
    if FROZEN_KEY not in checkpoint:
        state: dict[str, Tensor] = checkpoint["state_dict"]
        return state
    beside = file.parent / checkpoint[FROZEN_KEY]["file"]
    if not beside.is_file():
        raise ValueError(
            f"{file} holds what is trained alone; what is frozen lies in {beside.name}, which must lie beside it: copy both, or "
            "use the finished model, which holds everything"
        )
    try:
        tensors = load_file(beside)
    except SafetensorError as error:
        raise ValueError(f"{beside} is not a readable safetensors file: {error}; copy it again") from error
    if beside.name != f"frozen-{digest_of(tensors)}.safetensors":
        raise ValueError(f"{beside} does not hold what its name says; copy it again")
    return {**checkpoint["state_dict"], **tensors}


def digest_of(tensors: Mapping[str, Tensor]) -> str:
    """Return a name for the content of tensors."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]
