"""The command of sample.py that a user would type after a run."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch

from ldm import checkpoint
from ldm.autoencoder.derived import HOLES
from ldm.conditioner.base import Conditioner
from ldm.config import build_trusted, class_name, packages_of, resolved
from ldm.model import LatentDiffusion
from ldm.options.arguments import command_name
from ldm.training.options import RunContext

EXAMPLES = {
    "caption": 'prompt="..."',
    "label": "label=0",
    "boxes": "layout=FILE",
    "segmentation": "segmentation=FILE",
    "depth": "depth=FILE",
    "image": "image=FILE",
    "neighbors": "neighbors=FILE",
    "low_resolution": "mode=super_resolution low_resolution=FILE",
    **dict.fromkeys(HOLES, "mode=inpaint init=FILE mask=FILE"),
}
"""Field that a model is conditioned on -> the options of sample.py that give it."""


def model_in(given: str) -> dict[str, Any] | None:
    """Return the config of the diffusion model in a run or file that was given as an autoencoder.

    Args:
        given: The value of `autoencoder.ckpt`.

    Returns:
        The config; None where the autoencoder is alone.
    """
    try:
        file = checkpoint.find(given)
    except FileNotFoundError:
        return None
    config = checkpoint.config_of(file)
    return config if class_name(config) == LatentDiffusion.__name__ else None


def sample_command(
    run: RunContext, ckpt: str | Path, model: Mapping[str, Any], *options: str, also: Collection[str] = ()
) -> str:
    """Return the command that draws images of the kind that a run was trained on.

    It names the packages of the model's parts where they are not all of ldm.

    Args:
        run: The run.
        ckpt: The run or the file of the model.
        model: The config of the model, which says what it is conditioned on.
        options: Further options of sample.py, as they are typed.
        also: Names of the fields that are read beside those of the model, by its guidance.
    """
    packages = packages_of(model)
    with torch.device("meta"):
        conditioner: Conditioner = build_trusted(model["conditioner"], packages_of(resolved(run.config)))
    text = "a red heart on a white background" if "colors" in (run.config.data.get("source") or {}) else "..."
    examples = {**EXAMPLES, "caption": f'prompt="{text}"'}
    words = [command_name("sample"), f"ckpt={shlex.quote(str(ckpt))}"]
    words += [] if packages == ["ldm"] else [f"'packages=[{','.join(packages)}]'"]
    words += [
        *options,
        *(option for name, option in examples.items() if name in {*conditioner.inputs, *also}),
        "n=4 seed=0",
    ]
    return " ".join(words)
