"""Checks of a run before it begins, each with an error that says what to type instead."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from lightning_fabric.utilities.exceptions import MisconfigurationException
from omegaconf import DictConfig, OmegaConf, open_dict

from ldm.callback.checkpoints import Checkpoints
from ldm.callback.evaluation import Evaluation
from ldm.callback.measuring import Measuring
from ldm.callback.randomness import StepSeed
from ldm.config import CONFIGS, build, options_of, resolved, takes
from ldm.data.base import DataModule
from ldm.model import LatentDiffusion
from ldm.options.rule import leaves
from ldm.options.sweep import in_sweep
from ldm.task.base import Task
from ldm.training.claim import Continuation
from ldm.training.options import SHARED
from ldm.training.stage import Stage


def leave_out_leftovers(config: DictConfig, typed: Sequence[str], experiment: str = "") -> list[str]:
    """Remove options for parts that a run does not have, which files like `debug/tiny.yaml` say in case it has them.

    So are those removed that an experiment says for a part which the command line has exchanged. A callback that was left out
    stays null.

    Args:
        config: The composed config, which is changed.
        typed: The options of the command line, for which there is no excuse.
        experiment: Name of the experiment; "": there is none.

    Returns:
        The names of the experiment's options that were removed.

    Raises:
        ValueError: If such options were typed.
    """
    places = [f"stage.{name}" for name in map(str, config.stage)]
    for name in map(str, config.stage):
        callbacks = OmegaConf.select(config, f"stage.{name}.callbacks")
        places += (
            [f"stage.{name}.callbacks.{part!s}" for part in callbacks] if isinstance(callbacks, DictConfig) else []
        )
    names = [option.lstrip("+~").partition("=")[0] for option in typed]
    for place in [*places, "data.source"]:
        node = OmegaConf.select(config, place)
        if not isinstance(node, DictConfig) or "_target_" in node:
            continue
        if any(name.startswith(f"{place}.") for name in names):
            raise ValueError(
                f"options were given for {place}, which this experiment does not have: {resolved(node)}; leave them out, or "
                "choose another experiment"
            )
        parent, _, last = place.rpartition(".")
        with open_dict(config):
            if parent.endswith(".callbacks"):
                OmegaConf.select(config, parent)[last] = None
            else:
                OmegaConf.select(config, parent).pop(last)
    for file in sorted((CONFIGS / "debug").glob("*.yaml")):
        _leave_out_options(config, names, _options_in(file))
    file = CONFIGS / "experiment" / f"{experiment}.yaml"
    return _leave_out_options(config, names, _options_in(file)) if file.is_file() else []


def _leave_out_options(config: DictConfig, typed: Sequence[str], options: Mapping[str, Any]) -> list[str]:
    """Remove options that a file says for other classes of the same group, and these classes do not take; return their names."""
    left = []
    for option, value in options.items():
        place, _, name = option.rpartition(".")
        part = OmegaConf.select(config, place) if place else None
        if not isinstance(part, DictConfig) or "_target_" not in part or name.startswith("_"):
            continue
        if name in SHARED and place.rpartition(".")[0] == "stage":
            continue
        if name not in part or takes(part["_target_"], name):
            continue
        if option in typed:
            raise ValueError(f"{option} is no option of {part['_target_']}, which was chosen; leave it out")
        if options_of(part)[name] == value:
            left.append(option)
            with open_dict(config):
                part.pop(name)
    return left


@cache
def _options_in(file: Path) -> dict[str, Any]:
    """Return all options of a file of configs and their values."""
    options = OmegaConf.load(file)
    assert isinstance(options, DictConfig)
    return options_of(options)


def check_groups(settings: Mapping[str, Any]) -> None:
    """Check that no choice of a group was given as the value of an option.

    Args:
        settings: The config, as plain values.

    Raises:
        ValueError: If one was, with the form in which it is to be given.
    """
    for option, value in leaves(settings):
        place, _, name = option.rpartition(".")
        if place and isinstance(value, str) and (CONFIGS / name / f"{value}.yaml").is_file():
            group = f"{name}@{option}" if option.startswith("stage.") else name
            raise ValueError(
                f"{option}={value} cannot be, since {value} is a choice of a group of options; type {group}={value}"
            )


def check_stages(stages: Sequence[Stage[Task]]) -> None:
    """Check the options of all stages.

    Args:
        stages: The stages that are to be trained, in their order.

    Raises:
        ValueError: If there are none, or one lacks something.
    """
    if not stages:
        raise ValueError(
            "there is nothing to train: the autoencoder is given by autoencoder.ckpt, or only copies; add a stage, like "
            "'stage=[autoencoder,diffusion]', or leave out autoencoder.ckpt"
        )
    for place, stage in enumerate(stages):
        stage.check(stages[:place])


def first_trainer(config: DictConfig) -> pl.Trainer:
    """Return the trainer by which processes are started.

    Raises:
        ValueError: If there are no such devices, or a sweep would start processes within processes.
    """
    make: partial[pl.Trainer] = build({**resolved(config.trainer), "_partial_": True, "profiler": None})
    try:
        trainer = make(logger=False, enable_checkpointing=False)
    except (MisconfigurationException, TypeError) as error:
        raise ValueError(
            f"the options trainer.* cannot be used here: {error}; trainer=auto takes what this machine has"
        ) from error
    if trainer.world_size > 1 and in_sweep() and "LOCAL_RANK" not in os.environ:
        raise ValueError(
            f"a run of a sweep cannot start {trainer.world_size} processes itself; sweep with trainer.devices=1, "
            "or by a launcher that starts each run's processes"
        )
    return trainer


def check_batches(stages: Sequence[Stage[Task]], world: int) -> None:
    """Check that each stage's batch can be shared evenly by all processes and accumulated batches.

    Args:
        stages: The stages.
        world: Number of processes.

    Raises:
        ValueError: If one cannot, with numbers that can.
    """
    for stage in stages:
        option, batch, accumulate = f"stage.{stage.name}", stage.batch_size, stage.accumulate
        parts = accumulate * world
        if batch % parts:
            fitting = [number for number in range(1, batch // world + 1) if not batch % (number * world)]
            near = sorted(fitting, key=lambda number: abs(number - accumulate))[:3]
            numbers = " or ".join(map(str, sorted(near)))
            other = f"{option}.trainer.accumulate_grad_batches={numbers}, or " if near else ""
            sizes = [size for size in (batch // parts * parts, (batch // parts + 1) * parts) if size]
            raise ValueError(
                f"{option}: batch_size {batch} is not a multiple of accumulate_grad_batches {accumulate} times {world} "
                f"processes; use {other}{option}.batch_size={' or '.join(map(str, sizes))}"
            )
        if stage.run.config.trainer.overfit_batches % accumulate:
            raise ValueError(
                f"trainer.overfit_batches={stage.run.config.trainer.overfit_batches} is not a multiple of "
                f"{option}.trainer.accumulate_grad_batches={accumulate}; use a multiple of that"
            )


def check_callbacks(stage: Stage[Task]) -> None:
    """Check that a built stage has the callbacks without which a run cannot go on, or be repeated.

    Raises:
        ValueError: If one is missing.
    """
    for kind, name in ((Checkpoints, "checkpoint"), (StepSeed, "step_seed")):
        if sum(isinstance(callback, kind) for callback in stage.callbacks.values()) != 1:
            raise ValueError(
                f"stage.{stage.name}.callbacks.{name} cannot be left out, nor given twice: without it a run could not go on as "
                "if it had not stopped; for fewer files use stage."
                f"{stage.name}.callbacks.checkpoint.every_n_steps and keep"
            )


def needed_fields(stages: Sequence[Stage[Task]]) -> set[str]:
    """Return the names of all fields that tasks and evaluations read beside images or latents."""
    tasks = {name for stage in stages for name in stage.task.inputs}
    return tasks | {name for stage in stages for evaluation in stage.evaluations for name in evaluation.inputs}


def check_images(data: DataModule, evaluations: Sequence[Measuring]) -> None:
    """Check that there are as many validation images as each metric needs.

    Args:
        data: The data, opened.
        evaluations: The callbacks that measure.

    Raises:
        ValueError: If there are fewer.
    """
    there = len(data.val_set)
    for evaluation in evaluations:
        for metric in evaluation.metrics:
            if there < metric.least_images:
                raise ValueError(
                    f"{metric.names[0]} needs at least {metric.least_images} validation images, but data.val has {there}; "
                    "give it more, or choose another metric"
                )


def check_metrics(optimized: str | None, stages: Sequence[Stage[Task]]) -> None:
    """Check that the scores that a sweep and the choice of the best checkpoint ask for are measured, on enough images.

    Args:
        optimized: The score that a sweep optimises; None: none.
        stages: The stages, built.

    Raises:
        ValueError: If one is not measured, or a metric would get fewer images than it needs.
    """
    known: set[str] = set()
    for stage in stages:
        for evaluation in stage.evaluations:
            if isinstance(evaluation, Evaluation):
                _check_counts(stage.name, evaluation)
        for callback in stage.callbacks.values():
            best = callback.best if isinstance(callback, Checkpoints) else None
            if best is not None and best not in stage.metrics:
                raise ValueError(
                    f"stage.{stage.name}.callbacks.checkpoint.best={best} is not measured; choose from "
                    f"{', '.join(sorted(stage.metrics))}"
                )
        known |= stage.metrics
    names = sorted({name.rpartition("/")[2] for name in known})
    if optimized is not None and optimized not in {*names, *known}:
        raise ValueError(
            f"optimized_metric={optimized} is not measured; choose from {', '.join(names)}; a search for one that is to fall "
            "needs hydra.sweeper.direction=minimize"
        )


def _check_counts(stage: str, evaluation: Evaluation) -> None:
    """Raise ValueError where fewer images are to be made than a metric needs."""
    for metric in evaluation.metrics:
        name, least = metric.names[0], metric.least_images
        for option in ("num_images", "final_images"):
            wanted = getattr(evaluation, option)
            if wanted is not None and wanted < least:
                raise ValueError(
                    f"{name} needs at least {least} images, but stage.{stage}.callbacks.evaluation.{option}={wanted}; "
                    "give more, or choose another metric"
                )


def check_prompts(stages: Sequence[Stage[Task]]) -> None:
    """Check that the models can take the prompts that are drawn at each evaluation.

    Args:
        stages: The stages, built.

    Raises:
        ValueError: If a file of prompts has a field that a model does not read, or lacks one that it reads.
    """
    for stage in stages:
        for evaluation in stage.evaluations:
            model = stage.task.model
            if (
                isinstance(evaluation, Evaluation)
                and evaluation.prompts is not None
                and isinstance(model, LatentDiffusion)
            ):
                evaluation.prompts.check(model)


def check_finished(stages: Sequence[Stage[Task]], again: Continuation) -> None:
    """Check that there are finished models to be measured.

    Args:
        stages: The stages of the run.
        again: The parts that a run with these options would do again.

    Raises:
        ValueError: If one is missing, or was trained for fewer steps than are asked for.
    """
    for stage in stages:
        if stage.name in again.lengthened:
            raise ValueError(
                f"stage.{stage.name}.trainer.max_steps={stage.steps} asks for more steps than the finished model was trained "
                f"for, {again.lengthened[stage.name]}; leave out validate_only=true, or give that number"
            )
        if not stage.file.is_file():
            raise ValueError(
                f"there is no finished model {stage.file} to measure; train it by the same command without "
                "validate_only=true, or give the folder of a finished run: paths.output_dir=RUN"
            )
