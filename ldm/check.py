"""What can be wrong with a run, said before it begins."""

from __future__ import annotations

import os
from collections.abc import Sequence

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from ldm.callback.evaluation import Evaluation
from ldm.conditioner.text import text_parts
from ldm.config import in_sweep, resolved
from ldm.data.base import DataModule
from ldm.stage import Task
from ldm.task.autoencoder import AutoencoderTask
from ldm.task.diffusion import DiffusionTask


def check_whole(config: DictConfig) -> None:
    """Raise ValueError where options were given for a part that the chosen experiment does not have."""
    for name, stage in config.task.items():
        if "gradient_clip" not in stage:  # which every stage's own config has
            raise ValueError(
                f"options were given for the stage {name!r}, which this experiment does not have: {resolved(stage)}; "
                "leave them out (for experiment=autoencoder use debug=tiny_autoencoder), or choose experiment=txt2img"
            )
    if "autoencoder" in config.task and config.task.autoencoder.freeze_encoder and config.autoencoder.ckpt is None:
        raise ValueError("to fine-tune a decoder, give the autoencoder that it belongs to: autoencoder.ckpt=FILE")
    if "classifier" in config.task and config.autoencoder.ckpt is None:
        raise ValueError(
            "a classifier needs the autoencoder of the model that it shall guide; give its run, autoencoder.ckpt=runs/txt2img, "
            "or train it first: python train.py experiment=txt2img"
        )
    source = config.data.get("source")
    if source is not None and "_target_" not in source:
        raise ValueError(f"options were given for data.source, which data=shards does not have: {resolved(source)}")


def first_trainer(config: DictConfig) -> pl.Trainer:
    """The trainer by which processes are started. Raises ValueError where there are no such devices."""
    try:
        trainer = pl.Trainer(**resolved(config.trainer), logger=False, enable_checkpointing=False)
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


def idle_devices(config: DictConfig) -> str | None:
    """Say how to use all GPUs of this machine where fewer are used; None where there is nothing to say."""
    there, devices = torch.cuda.device_count(), config.trainer.devices
    started = in_sweep() or not {"LOCAL_RANK", "SLURM_PROCID"}.isdisjoint(os.environ)
    if started or config.trainer.accelerator not in ("gpu", "cuda", "auto") or not isinstance(devices, int):
        return None
    if not 0 < devices < there:
        return None
    return f"this machine has {there} GPUs, of which {devices} will be used; to use all, stop and add trainer=ddp"


def check_batches(config: DictConfig, stages: Sequence[str], world: int) -> None:
    """Raise ValueError where a stage's batch cannot be shared evenly by all processes and accumulated batches."""
    for name in stages:
        batch, accumulate = config.task[name].batch_size, config.task[name].accumulate
        parts = accumulate * world
        if batch % parts:
            fitting = [number for number in range(1, batch // world + 1) if not batch % (number * world)]
            near = sorted(fitting, key=lambda number: abs(number - accumulate))[:3]
            other = f"task.{name}.accumulate={' or '.join(map(str, sorted(near)))}, or " if near else ""
            sizes = [size for size in (batch // parts * parts, (batch // parts + 1) * parts) if size]
            raise ValueError(
                f"task.{name}: batch_size {batch} is not a multiple of accumulate {accumulate} times {world} processes; "
                f"use {other}task.{name}.batch_size={' or '.join(map(str, sizes))}"
            )


def needed_fields(tasks: dict[str, Task], callbacks: dict[str, list[Callback]]) -> set[str]:
    """Return the names of all fields that tasks and metrics read beside images or latents."""
    measuring = (one for several in callbacks.values() for one in several if isinstance(one, Evaluation))
    metrics = (metric for evaluation in measuring for metric in evaluation.metrics)
    return {name for part in (*tasks.values(), *metrics) for name in part.inputs}


def check_images(data: DataModule, callbacks: dict[str, list[Callback]]) -> None:
    """Raise ValueError where there are fewer validation images than a metric needs."""
    there = len(data.val_set)
    for evaluation in (one for several in callbacks.values() for one in several if isinstance(one, Evaluation)):
        for metric in evaluation.metrics:
            if there < metric.least_images:
                raise ValueError(
                    f"{metric.names[0]} needs at least {metric.least_images} validation images, but data.val has {there}; "
                    "give it more, or choose another metric"
                )


def check_metrics(config: DictConfig, tasks: dict[str, Task], callbacks: dict[str, list[Callback]]) -> None:
    """Raise ValueError where a sweep, or the choice of the best checkpoint, asks for a score that nobody measures.

    And where a metric would get fewer images than it needs.
    """
    known = set()
    for stage, task in tasks.items():
        measured = {f"val/{name}" for name in task.scores}
        for callback in callbacks[stage]:
            if isinstance(callback, Evaluation):
                measured.update(f"eval/{name}" for measure in callback.metrics for name in measure.names)
                _check_counts(stage, callback)
        best = config.task[stage].checkpoints.best
        if best is not None and best not in measured:
            raise ValueError(
                f"task.{stage}.checkpoints.best={best} is not measured; choose from {', '.join(sorted(measured))}"
            )
        known |= measured
    names = sorted({name.rpartition("/")[2] for name in known})
    if config.optimized_metric is not None and config.optimized_metric not in {*names, *known}:
        raise ValueError(f"optimized_metric={config.optimized_metric} is not measured; choose from {', '.join(names)}")


def _check_counts(stage: str, evaluation: Evaluation) -> None:
    """Raise ValueError where fewer images are to be made than a metric needs."""
    for metric in evaluation.metrics:
        name, least = metric.names[0], metric.least_images
        for option in ("num_images", "final_images"):
            wanted = getattr(evaluation, option)
            if wanted is not None and wanted < least:
                raise ValueError(
                    f"{name} needs at least {least} images, but task.{stage}.callbacks.evaluation.{option}={wanted}; "
                    "give more, or choose another metric"
                )


def check_latents(data: DataModule, tasks: dict[str, Task]) -> None:
    """Raise ValueError where cached latents are to train what they were not made for."""
    if not data.encoding:
        return
    if "autoencoder" in tasks:
        raise ValueError(
            "latents train stage 2 alone, or a classifier; give the autoencoder that made them: autoencoder.ckpt=FILE"
        )
    for task in tasks.values():
        assert not isinstance(task, AutoencoderTask)
        if data.encoding["autoencoder"] != task.model.autoencoder.encoder_hash:
            raise ValueError(
                f"the latents were made by the autoencoder {data.encoding['autoencoder']}, but autoencoder.ckpt is "
                f"{task.model.autoencoder.encoder_hash}; give the same, or encode the images again"
            )
        if isinstance(task, DiffusionTask):
            _check_tokens(data, task)


def _check_tokens(data: DataModule, task: DiffusionTask) -> None:
    for part in text_parts(task.model.conditioner) if data.encoding["text"] else ():
        if part.frozen_hash != data.encoding["text"]:
            raise ValueError(
                f"the tokens beside the latents were made by the text encoder {data.encoding['text']}, but the conditioner "
                f"is {part.frozen_hash or 'trained from scratch'}; give the same, or encode without text"
            )


def check_alignment(config: DictConfig, data: DataModule) -> None:
    """Raise ValueError where the loss that needs images would get latents."""
    held = data.encoding or config.data.get("cache_latents", False)
    if "diffusion" in config.task and config.alignment is not None and held:
        raise ValueError(
            "alignment to a vision encoder needs the images, but training reads latents; set data.cache_latents=false, or "
            "data=shards instead of data=latents"
        )
