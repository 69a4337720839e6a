"""`python -m ldm.interop.export`: write a model in another layout, whole or not at all."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ldm.config import class_name
from ldm.files.output_folder import OutputFolder
from ldm.files.tensors import DTYPES
from ldm.interop.export.base import ExportFormat
from ldm.interop.export.model import autoencoder_of
from ldm.options.rule import OneOf, Optional, check


def export(
    node: Mapping[str, Any],
    weights: Mapping[str, Tensor],
    form: ExportFormat,
    out: str,
    *,
    dtype: str | None = None,
    name: str,
) -> None:
    """Write a model, and print how it is used.

    Args:
        node: The config node of the model, or of an autoencoder.
        weights: Its state dict.
        form: The format.
        out: The folder, which is new or empty.
        dtype: The type of the written numbers, float32 or float16; None: as they are.
        name: The name that the user gave to the model.

    Raises:
        ValueError: If the folder is not empty, or the format cannot hold the model; nothing is written then.
    """
    check("dtype", dtype, Optional(OneOf(tuple(DTYPES)), "as the numbers are stored"))
    folder = OutputFolder(out, option="out", is_own=None)
    folder.check()
    if dtype is not None:
        weights = {
            key: value.to(DTYPES[dtype]) if value.is_floating_point() else value for key, value in weights.items()
        }
    folder.path.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{folder.path.name}-", dir=folder.path.parent))
    try:
        kind = class_name(node)
        if kind == "LatentDiffusion":
            message = form.write_model(node, weights, draft, name=name)
        elif "statistics_count" in weights:
            message = form.write_autoencoder(autoencoder_of(node, weights), draft, name=name)
        else:
            raise ValueError(f"{name} holds {kind}; latent diffusion models and autoencoders can be exported")
        with folder.lock():
            for part in draft.iterdir():
                part.rename(folder.path / part.name)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    files = sorted(path for path in folder.path.rglob("*") if path.is_file() and not path.name.startswith("."))
    megabytes = sum(file.stat().st_size for file in files) / 2**20
    print(f"{folder.path}: {len(files)} {'file' if len(files) == 1 else 'files'}, {megabytes:,.1f} MB")
    print(message.replace(str(draft), str(folder.path)))
