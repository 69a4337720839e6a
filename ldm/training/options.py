"""The options that all stages have, and the part of a run that its stages know."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from torch import nn

from ldm import checkpoint
from ldm.config import build, class_of, resolved


@dataclass(frozen=True)
class RunContext:
    """The part of a run that its stages know.

    Args:
        config: The composed config. An autoencoder that is given puts its own network into it.
        folder: The run folder.
    """

    config: DictConfig
    folder: Path

    @property
    def autoencoder_copies(self) -> bool:
        """True where the autoencoder has no parameters, so that there is nothing to train: `autoencoder=identity`."""
        with torch.device("meta"):
            network: nn.Module = build(self.config.autoencoder.network)
        return not any(True for _ in network.parameters())

    @property
    def given_autoencoder(self) -> str | None:
        """A finished autoencoder, file or folder, that the run is given: by `autoencoder.ckpt`, or else by `init`; None: none.

        A model of latents that the run begins with has the autoencoder to whose latents its weights belong. Where the run
        trains no such model, `init` is the beginning of the autoencoder.
        """
        config = self.config
        given: str | None = config.autoencoder.ckpt
        stages: list[Any] = [class_of(stage) for stage in config.stage.values()]
        if given is None and any(checkpoint.AUTOENCODER_FILE in stage.builds_on for stage in stages):
            given = config.init
        return given


@dataclass(frozen=True, kw_only=True)
class StageOptions:
    """The options that all stages have. A YAML file of a stage lists them beside those that the stage alone has.

    Attributes:
        run: The run that the stage belongs to.
        name: Name of the stage: the key in the config, and the folder in the run folder.
        optimizer: Config of a factory that makes an optimizer of what is trained.
        scheduler: Config of a factory that makes a learning-rate scheduler of an optimizer.
        callbacks: Name -> config of a callback, or None.
        trainer: Options of Lightning's Trainer for this stage: `max_steps`, `accumulate_grad_batches`, `gradient_clip_val`
            and others.
        batch_size: Images an optimiser step, over all processes and accumulated batches.
        validate_every_n_steps: Optimiser steps between validations.
    """

    run: RunContext
    name: str
    optimizer: Mapping[str, Any]
    scheduler: Mapping[str, Any]
    callbacks: Mapping[str, Mapping[str, Any] | None]
    trainer: Mapping[str, Any]
    batch_size: int
    validate_every_n_steps: int


SHARED = tuple(field.name for field in fields(StageOptions) if field.name not in ("run", "name"))
"""Names of the options that the config of every stage has."""


def split_options(run: RunContext, name: str) -> tuple[StageOptions, dict[str, Any]]:
    """Split the config of a stage into the options that all stages have and the config that builds this stage.

    Args:
        run: The run.
        name: Name of the stage.

    Returns:
        The shared options, and the rest of the config, with `_target_`.

    Raises:
        ValueError: If an option is missing that every stage has.
    """
    options: dict[str, Any] = resolved(run.config.stage[name])
    missing = [option for option in SHARED if option not in options]
    if missing:
        raise ValueError(
            f"stage.{name} lacks {', '.join(missing)}, which every stage has; see configs/stage/diffusion.yaml"
        )
    shared = {option: options.pop(option) for option in SHARED}
    return StageOptions(run=run, name=name, **shared), options
