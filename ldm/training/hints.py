"""Hints about the machine, for a user whose run is about to begin."""

from __future__ import annotations

import os
from typing import Any

import torch
from omegaconf import DictConfig

from ldm.options.sweep import in_sweep
from ldm.task.base import Task
from ldm.training.stage import Stage

LARGE = 50e6
"""The number of trained parameters from which a step on a CPU takes minutes."""


def idle_devices(config: DictConfig) -> str | None:
    """Return a hint on using all GPUs of this machine; None where all are used."""
    there, devices = torch.cuda.device_count(), config.trainer.devices
    started = in_sweep() or not {"LOCAL_RANK", "SLURM_PROCID"}.isdisjoint(os.environ)
    if started or config.trainer.accelerator not in ("gpu", "cuda", "auto") or not isinstance(devices, int):
        return None
    if not 0 < devices < there:
        return None
    return f"this machine has {there} GPUs, of which {devices} will be used; to use all, stop and add trainer=ddp"


def large_on_cpu(stage: Stage[Any], accelerator: str) -> str | None:
    """Return a hint on estimating the time of a stage that trains a large network on a CPU; None for other stages.

    Args:
        stage: The stage, built.
        accelerator: The kind of device.
    """
    task: Task = stage.task
    count = sum(part.numel() for part in task.parameters() if part.requires_grad)
    if accelerator != "cpu" or count < LARGE:
        return None
    return (
        f"stage {stage.name} trains {count / 1e6:,.0f} M parameters for {stage.steps:,} steps of {stage.batch_size:,} images, "
        "and a step takes minutes on a CPU: python -m ldm.plan with the same options and hardware=cpu says how long, and "
        "experiment=txt2img has networks for a CPU"
    )
