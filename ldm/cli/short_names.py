"""Short names of options, as other projects with Lightning and Hydra call them: `optimizer.lr=1e-3`, `trainer.max_steps=1000`.

Every stage of a run has an optimiser, a number of steps and so on of its own. A short name means those of the stage that is
trained last; another stage's are typed in full: `stage.autoencoder.optimizer.lr=1e-3`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from omegaconf import DictConfig

from ldm.cli.command_line import UsageError
from ldm.config import options_of

OPTIONS: Mapping[str, str] = {
    "trainer.max_steps": "stage.{stage}.trainer.max_steps",
    "trainer.accumulate_grad_batches": "stage.{stage}.trainer.accumulate_grad_batches",
    "trainer.gradient_clip_val": "stage.{stage}.trainer.gradient_clip_val",
    "trainer.val_check_interval": "stage.{stage}.validate_every_n_steps",
    "data.batch_size": "stage.{stage}.batch_size",
    "batch_size": "stage.{stage}.batch_size",
}
"""Short name of an option -> its full name."""

NODES: Mapping[str, str] = {
    "optimizer": "stage.{stage}.optimizer",
    "model.optimizer": "stage.{stage}.optimizer",
    "scheduler": "stage.{stage}.scheduler",
    "model.scheduler": "stage.{stage}.scheduler",
    "callbacks": "stage.{stage}.callbacks",
}
"""Short name of a group of a stage -> the node it fills; `optimizer=muon` is a choice, `optimizer.lr=1e-3` an option of it."""

INSTEAD: Mapping[str, str] = {
    "ckpt_path": "to go on with a run type the command again that began it, and it goes on from its newest checkpoint; "
    "to begin with the weights of an earlier model type init=RUN_OR_FILE; to begin with another run's autoencoder type "
    "autoencoder.ckpt=RUN",
    "trainer.max_epochs": "a stage is as long as its optimiser steps; type trainer.max_steps=NUMBER",
    "trainer.min_epochs": "a stage is as long as its optimiser steps; type trainer.max_steps=NUMBER",
    "trainer.check_val_every_n_epoch": "a stage is validated by its steps; type trainer.val_check_interval=NUMBER",
    "train": "to measure a finished run without training type validate_only=true",
    "test": "every stage is measured at its end; to measure a finished run again type validate_only=true",
}
"""Name of an option that is not supported -> what to type instead."""


def is_short(option: str) -> bool:
    """Return whether a word of a command line has a name of one of the tables above."""
    name = _name(option)
    return name in OPTIONS or name in INSTEAD or _node(name) is not None


def last_stage(config: DictConfig) -> str | None:
    """Return the stage of a config that is trained last; None where it trains nothing."""
    stages = [stage for stage, node in config.get("stage", {}).items() if "_target_" in node]
    return stages[-1] if stages else None


def short_names(config: DictConfig) -> list[str]:
    """Return the short names that mean something in a config: those of options and groups of the stage that is trained last."""
    if (stage := last_stage(config)) is None:
        return []
    known = options_of(config)
    return [name for name, full in {**OPTIONS, **NODES}.items() if full.format(stage=stage) in known]


def rewrite(options: Sequence[str], stage: str, known: Collection[str] = ()) -> list[str]:
    """Give options with short names their full ones.

    Args:
        options: Words of a command line; several values for a sweep are no matter.
        stage: The stage that is trained last.
        known: Full names of the options that the config has; such a name is not taken for a short one.

    Returns:
        As many words, in the same order.

    Raises:
        UsageError: An option cannot be here as elsewhere; its message says what to type instead.
    """
    return [_rewrite(option, stage, known) for option in options]


def _rewrite(option: str, stage: str, known: Collection[str]) -> str:
    name = _name(option)
    if name in INSTEAD:
        raise UsageError(f"{name} is no option here: {INSTEAD[name]}")
    if name in known or option.startswith("~") or not is_short(option):
        return option
    value = option.partition("=")[2]
    if name == "trainer.val_check_interval" and "." in value:
        raise UsageError(f"{name}={value}: a stage is validated every so many of its steps; give a whole number")
    if name in OPTIONS:
        return f"{OPTIONS[name].format(stage=stage)}={value}"
    node = _node(name) or ""
    full = NODES[node].format(stage=stage)
    if name != node:
        return f"{full}{name.removeprefix(node)}={value}"
    if value.startswith("{"):  # not a choice, but the options themselves
        return f"{full}={value}"
    return f"{node.rpartition('.')[2]}@{full}={value}"


def _name(option: str) -> str:
    return option.lstrip("+~").partition("=")[0]


def _node(name: str) -> str | None:
    """Return the group of a stage that a name is the short one of, or of an option in it."""
    return next((node for node in NODES if name == node or name.startswith(f"{node}.")), None)
