"""Loading networks of Hugging Face, from a local folder or the hub: the one place that decides which files are read, and how."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from ldm.pretrained.catalogue import missing_model
from ldm.pretrained.hub import local_files_only


@contextmanager
def loading(kind: str, name: str, *, files: str = "config and safetensors weights", advice: str) -> Iterator[bool]:
    """Load parts of a model inside the block; yields whether to look for them on this machine alone.

    Args:
        kind: See `missing_model`.
        name: Name of the model on the hub, or a local folder.
        files: See `missing_model`.
        advice: See `missing_model`.

    Raises:
        FileNotFoundError: Where the block fails with an OSError or a ValueError.
    """
    local = local_files_only(name)
    try:
        yield local
    except (OSError, ValueError) as error:
        raise missing_model(kind, name, error, files=files, advice=advice) from error


WEIGHTS: dict[str, Any] = {"dtype": torch.float32, "use_safetensors": True}
"""Options with which weights are loaded: in fp32, and never from a format that can hold code."""
