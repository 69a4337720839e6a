"""The data that a model is measured with: those that its run was trained with, or others that a command names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from ldm.config import CONFIGS, build_trusted
from ldm.data.base import DataModule

CONFIG_FILE = "config.yaml"
"""The config of a run, in its folder."""

LEVELS = 4
"""So many folders above a checkpoint its run folder may be."""


def run_config(ckpt: str | Path) -> dict[str, Any] | None:
    """Return the config of the run that a checkpoint belongs to; None where it lies in no run folder.

    Args:
        ckpt: A run folder, or a checkpoint.
    """
    path = Path(ckpt).resolve()
    for folder in [path, *path.parents][:LEVELS]:
        file = folder / CONFIG_FILE
        if file.is_file():
            found: Any = OmegaConf.to_container(OmegaConf.load(file))
            return found if isinstance(found, dict) and "data" in found else None
    return None


def data_module(options: dict[str, Any], run: dict[str, Any] | None, packages: Sequence[str]) -> DataModule:
    """Return the data module of an evaluation; nothing is read yet.

    Args:
        options: What a command says of its data: val, train, size, val_images, cache; those that are None are as in the run.
        run: The config of the run; None: it is not known.
        packages: Packages whose classes the run's config may name.

    Raises:
        ValueError: If no data are named, and the run is not known.
    """
    given = {name: value for name, value in options.items() if value is not None}
    names = {"val", "train"} & given.keys()
    if run is None or names:
        node = _shards(options["cache"]) if run is None else dict(run["data"])
        if "val" not in names:
            raise ValueError(
                "what the images are made for, and compared with, are samples of data.val: give data.val='shards/val-*.tar'"
            )
        node = {"train": [], **node, "source": None}
    else:
        node = dict(run["data"])
    node |= {"workers": 0, "cache_latents": False, **given}
    module: DataModule = build_trusted(node, packages)
    return module


def _shards(cache: str) -> dict[str, Any]:
    """Return the options of shards of which nothing else is known."""
    node: Any = OmegaConf.to_container(OmegaConf.load(CONFIGS / "data" / "shards.yaml"))
    fixed = {"train": [], "cache": cache, "seed": 0, "crop": "center", "flip": False, "degradation": None, "mask": None}
    return {**node, **fixed}
