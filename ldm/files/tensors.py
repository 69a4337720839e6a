"""Files of tensors: written whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from ldm.files.disk import why_unwritten
from ldm.files.whole import written_whole

DTYPES = {"float32": torch.float32, "float16": torch.float16}
"""The types in which weights can be written, by name; the second takes half the space."""


def write_tensors(file: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write a .safetensors file, which appears whole or not at all, and which others may read as any new file.

    Args:
        file: Path of the file; its folder is made where it is missing.
        tensors: Tensors by name, on any device; they may share memory.
        metadata: Texts by name, stored beside the tensors.

    Raises:
        OSError: If the disk is full, or the folder cannot be written; what lay under the path before is still there.
    """
    try:
        with written_whole(file) as draft:
            save_file(_apart(tensors), draft, metadata)
            draft.chmod(0o666 & ~_umask())  # the library makes it private
            with draft.open("rb") as written:
                os.fsync(written.fileno())
    except SafetensorError as error:
        raise OSError(why_unwritten(file, error)) from error
    sync_folder(file.parent)


def _apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors on the CPU, each in memory of its own: the format cannot store one tensor under two names."""
    parts: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in tensors.items():
        part = tensor.detach().cpu().contiguous()
        place = part.untyped_storage().data_ptr()
        parts[name] = part.clone() if place in seen else part
        seen.add(place)
    return parts


def sync_folder(folder: Path) -> None:
    """Write a folder's list of names to disk, so that new files in it survive a crash of the machine."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # some network file systems cannot, and need not
            os.fsync(handle)
    finally:
        os.close(handle)


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask
