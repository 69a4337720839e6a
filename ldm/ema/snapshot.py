"""Snapshots of averaged weights: the files that training leaves, and from which other averages are made."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from safetensors import SafetensorError, safe_open
from torch import Tensor

from ldm.files.tensors import DTYPES, write_tensors


class Snapshot(NamedTuple):
    """An average of the weights after a number of optimiser steps.

    Attributes:
        file: The file that holds it.
        step: Number of optimiser steps after which it was taken.
        length: Length of the average, the paper's sigma_rel.
    """

    file: Path
    step: int
    length: float

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Yield name and value of each weight, in float32, read one by one."""
        with safe_open(self.file, framework="pt") as content:
            for name in content.keys():  # noqa: SIM118
                yield name, content.get_tensor(name).float()


def write_snapshot(folder: Path, step: int, length: float, *, weights: Mapping[str, Tensor], dtype: str) -> None:
    """Write a snapshot, `step-00001000-0.05.safetensors`, whole or not at all.

    Args:
        folder: Folder of the snapshots.
        step: Number of optimiser steps after which it was taken.
        length: Length of the average, the paper's sigma_rel.
        weights: Averaged weights by name.
        dtype: The type in which they are stored, a name from `ldm.files.tensors.DTYPES`.
    """
    file = folder / f"step-{step:08d}-{length}.safetensors"
    tensors = {name: tensor.to(DTYPES[dtype]) for name, tensor in weights.items()}
    write_tensors(file, tensors, {"step": str(step), "sigma_rel": repr(length)})


def read_snapshots(folder: Path) -> list[Snapshot]:
    """Return the snapshots in a folder, sorted by step and length.

    Raises:
        ValueError: Where one is damaged.
    """
    return sorted(map(_read, folder.glob("step-*.safetensors")), key=lambda found: (found.step, found.length))


def _read(file: Path) -> Snapshot:
    try:
        with safe_open(file, framework="pt") as content:
            metadata = content.metadata() or {}
        return Snapshot(file, int(metadata["step"]), float(metadata["sigma_rel"]))
    except (SafetensorError, KeyError, ValueError) as error:
        raise ValueError(
            f"{file} is not a snapshot of averaged weights: {error}; copy it again, or delete it"
        ) from error
