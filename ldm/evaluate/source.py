"""The data that a model is measured with: those that its run was trained with, or others that a command names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from ldm.batch import Size
from ldm.config import CONFIGS, resolved
from ldm.files.run_names import CONFIG_FILE

LEVELS = 4
"""The largest number of folders between a checkpoint and its run folder."""

DRAWN = {"degradation": "degradation", "mask": "masks"}
"""Options of the data that are groups of a command."""

COMPUTED = {"low_resolution": "degradation", "mask": "mask"}
"""Computed fields of samples -> the option of the data that determines them."""


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


def data_options(
    config: DictConfig, run: Mapping[str, Any] | None, *, size: Size | None, training: bool
) -> dict[str, Any]:
    """Return the plain config of the data module of an evaluation; nothing is read.

    Args:
        config: The options of a command; those of the data that are None are those of the run.
        run: The config of the run; None: it is not known.
        size: Height and width of real images, where neither a command nor a run says them.
        training: Whether training images are read, too.

    Raises:
        ValueError: If no data are named, and the run is not known, or no size is.
    """
    options = {name: resolved(config.get(group)) for name, group in DRAWN.items()} | resolved(config.data)
    given = {name: value for name, value in options.items() if value is not None}
    node = {**(_shards(size) if run is None else run["data"]), "workers": 0, "cache_latents": False, **given}
    if {"val", "train"} & given.keys():
        node["source"] = None
    if node.get("source") is None and not node.get("val"):
        raise ValueError(
            "what the images are made for, and compared with, are samples of data.val: give data.val='shards/val-*.tar'"
        )
    if node["size"] is None:
        raise ValueError("the images are of several sizes, and real ones are resized to one; give data.size=")
    return node if training else {**node, "train": None}


def computed_options(fields: Iterable[str], options: Mapping[str, Any]) -> dict[str, Any]:
    """Return those options of the data, by name, that say how some of the fields are computed."""
    return {COMPUTED[field]: options.get(COMPUTED[field]) for field in COMPUTED if field in set(fields)}


def _shards(size: Size | None) -> dict[str, Any]:
    """Return the options of shards about which nothing else is known."""
    node: Any = OmegaConf.to_container(OmegaConf.load(CONFIGS / "data" / "shards.yaml"))
    fixed = {
        **dict.fromkeys(("train", "val", "degradation", "mask", "val_images")),
        "seed": 0,
        "crop": "center",
        "flip": False,
    }
    return {**node, **fixed, "size": size and list(size)}
