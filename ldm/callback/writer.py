"""Writing checkpoints to disk, whole or not at all, and reading them without running code from them."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.plugins.io import CheckpointIO

from ldm.files.disk import why_unwritten
from ldm.files.tensors import sync_folder
from ldm.optim.frozen import store


class CheckpointWriter(CheckpointIO):
    """Writes a checkpoint beside its final place and renames it, so that a file appears whole or not at all.

    Nothing is staged in memory or in a temporary folder on another disk. When a file has its name, it is on the disk. Files
    are read memory-mapped, and never in a way that could run code from them.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write a checkpoint to a path.

        Args:
            checkpoint: Tensors and plain values. What it says is frozen goes into a file of its own, unless that is there.
            path: The file; its folder is made where it is missing.
            storage_options: Not used.

        Raises:
            OSError: If the disk is full, or the folder cannot be written. The message names the file and its disk, and
                what lay under the path before is still there.
        """
        path = Path(path)
        draft = draft_of(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            store(path.parent, checkpoint)
            with draft.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(path)
            sync_folder(path.parent)
        except (OSError, RuntimeError) as error:
            with suppress(OSError):
                draft.unlink()
            message = why_unwritten(path, error, what="the checkpoint")
            raise OSError(f"{message}, and the same command goes on from the last checkpoint there is") from error

    def load_checkpoint(
        self, path: str | Path, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Return the content of a checkpoint; its tensors lie in the file until they are used.

        Args:
            path: The file.
            map_location: Where tensors go; nothing else than the CPU serves here.
            weights_only: Taken for true whatever it is.

        Raises:
            ValueError: If the file cannot be read, or holds anything but tensors and plain values.
        """
        try:
            checkpoint: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
            return checkpoint
        except Exception as error:
            raise ValueError(
                f"the checkpoint {path} cannot be read: {str(error).splitlines()[0]}; copy it again, or delete it: the same "
                "command then goes on from the one before it, or anew where there is none"
            ) from error

    def remove_checkpoint(self, path: str | Path) -> None:
        """Delete a checkpoint, if it is there."""
        Path(path).unlink(missing_ok=True)


def draft_of(path: Path) -> Path:
    """Return the hidden file in which a checkpoint is written before it gets its name."""
    return path.with_name(f".{path.name}.part")
