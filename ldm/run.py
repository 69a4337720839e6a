"""A run: a folder, the stages trained in it one after the other, and the results."""

from __future__ import annotations

import json
import logging
import shlex
import signal
import warnings
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from ldm import checkpoint, processes
from ldm.callback.checkpoints import newest
from ldm.callback.signals import Preempted, Signals
from ldm.check import (
    check_alignment,
    check_batches,
    check_images,
    check_latents,
    check_metrics,
    check_whole,
    first_trainer,
    idle_devices,
    needed_fields,
)
from ldm.claim import CONFIG_FILE, Continuation, compare, run_output, take
from ldm.config import build, is_rank_zero, packages_of, resolved
from ldm.data.base import DataModule
from ldm.fit import CHECKPOINTS, RESULTS_FILE, fit
from ldm.plot import plot_curves
from ldm.rules import check_values
from ldm.stage import MODEL_FILES, Task, build_task, read_captions, remember_captions
from ldm.sweep import typed_options
from ldm.task.autoencoder import AutoencoderTask

log = logging.getLogger(__name__)

BESIDE_THE_POINT = (
    ".*LeafSpec.*deprecated",  # Lightning about torch
    ".*resuming from a checkpoint that ended before the epoch ended",  # the data module knows where it stood
    ".*does not have many workers",
    ".*lr_scheduler.step.*before.*optimizer.step",  # the discriminator's, which starts later than its schedule
    ".*exists and is not empty",
)
"""Warnings that tell a user nothing that he should act upon, as patterns of their beginnings."""


def train(config: DictConfig) -> float | None:
    """Train those stages of a config that are not finished in its run folder; returns the score that sweeps optimise."""
    run = Path(config.run_dir)
    check_values(resolved(config))
    check_whole(config)
    stages = [name for name in config.task if not (name == "autoencoder" and _is_given(config))]
    if is_rank_zero():
        run_output(run).check()
    finished = [name for name in stages if (run / name / RESULTS_FILE).is_file()]
    again = compare(run, resolved(config), finished)
    todo = [name for name in stages if name not in finished or name in again.measured or name in again.lengthened]
    if todo:
        if is_rank_zero() and (hint := idle_devices(config)) is not None:
            print(hint)
        try:
            _train_stages(todo, config, run, again)
        except Preempted as preempted:
            if not is_rank_zero():  # whose end would be taken for a failure by the process that started this one
                raise SystemExit(0) from None
            print(preempted)
            raise SystemExit(128 + signal.SIGTERM) from None
    for name in stages:
        processes.appears(run / name / RESULTS_FILE)  # to all processes; the first has written it
    results = {name: json.loads((run / name / RESULTS_FILE).read_text()) for name in stages}
    if is_rank_zero():
        _report(run, results, config, new=bool(todo))
    return _score(results, config.optimized_metric)


def _is_given(config: DictConfig) -> bool:
    """Whether stage 1 has nothing to train: its autoencoder is there, and its decoder is not to be fine-tuned."""
    return config.autoencoder.ckpt is not None and not config.task.autoencoder.freeze_encoder


def _train_stages(todo: list[str], config: DictConfig, run: Path, again: Continuation) -> None:
    """Build everything first, so that whatever is wrong is said before any training; then train."""
    for pattern in BESIDE_THE_POINT:
        warnings.filterwarnings("ignore", f"(?s){pattern}")
    settings = resolved(config)
    _suit_hardware(config.trainer.accelerator, str(config.trainer.precision))
    first = first_trainer(config)
    check_batches(config, todo, first.world_size)
    data: DataModule = build(config.data)
    tasks = {name: build_task(name, config, run) for name in todo}
    callbacks = {name: list(build(config.task[name].callbacks).values()) for name in todo}
    check_metrics(config, tasks, callbacks)
    data.need(needed_fields(tasks, callbacks))
    data.open()  # the first that writes: all that can be checked without it has been
    check_images(data, callbacks)
    check_latents(data, tasks)
    check_alignment(config, data)
    if is_rank_zero() and not (run / CONFIG_FILE).is_file():
        data.check_fields()  # of a run that goes on they were seen; it reads nothing but what it stopped in
    read_captions(tasks, config, data, run)
    for name in todo:
        data.set_batch(config.task[name].batch_size, config.task[name].accumulate, first.world_size)
        if is_rank_zero():
            newest(run / name / CHECKPOINTS)  # what it cannot go on from is said here
    with run_output(run).lock() if is_rank_zero() else nullcontext():
        processes.start(first, str(config.trainer.strategy))
        try:
            processes.check_shared(first, run)
            processes.check_same(first, "the configuration", _trained(settings))
            if is_rank_zero():
                take(run, settings, again, MODEL_FILES, RESULTS_FILE)
            remember_captions(tasks, run)
            with Signals() as signals:
                for name in todo:
                    if not isinstance(tasks[name], AutoencoderTask) and "autoencoder" in todo:
                        _take_autoencoder(first, tasks[name], run, settings)
                    fit(name, config, data, tasks[name], callbacks[name], run, first, signals)
        except BaseException:
            processes.end(first)
            raise


def _trained(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings of what is trained, without those of where files lie."""
    stages = {
        name: {part: value for part, value in stage.items() if part not in ("callbacks", "checkpoints")}
        for name, stage in settings["task"].items()
    }
    return {"seed": settings["seed"], "model": settings["model"], "task": stages}


def _take_autoencoder(first: pl.Trainer, task: Task, run: Path, settings: dict[str, Any]) -> None:
    """Give a later stage the network that the first one has trained."""
    assert not isinstance(task, AutoencoderTask)
    file = processes.agreed_file(first, run / checkpoint.AUTOENCODER_FILE)
    assert file is not None
    trained, _ = checkpoint.load_autoencoder(file, packages=packages_of(settings))
    task.model.autoencoder.load_state_dict(trained.state_dict())


def _suit_hardware(accelerator: str, precision: str) -> None:
    """Faster kernels where they serve: TF32 on GPUs; on CPUs in bf16 no fused attention, whose backward pass is slow.

    (A step of the U-Net for icons, batch 32, took 248 ms with it and 159 ms without; in fp32, 188 ms and 200 ms.)
    """
    torch.set_float32_matmul_precision("high")
    if accelerator == "cpu" and precision.startswith("bf16"):
        torch.backends.cuda.enable_flash_sdp(False)  # despite its name, it is the switch of the CPU's kernel, too


def _score(results: dict[str, dict[str, float]], metric: str | None) -> float | None:
    """The named score of the last stage that has it."""
    if metric is None:
        return None
    for scores in reversed(list(results.values())):
        for name in (metric, f"eval/{metric}", f"val/{metric}"):
            if name in scores:
                return scores[name]
    raise ValueError(f"optimized_metric={metric} was not measured in this run; it was finished for another purpose")


def _report(run: Path, results: dict[str, dict[str, float]], config: DictConfig, *, new: bool) -> None:
    """Curves, a table of the results, and the next command to type."""
    curves = plot_curves(run, list(results))
    table = Table()
    for column in ("stage", "score", "value"):
        table.add_column(column)
    for stage, scores in results.items():
        for name, value in scores.items():
            table.add_row(stage, name, f"{value:,.4g}" if isinstance(value, float) else f"{value:,}")
    Console().print(table)
    command = _next_command(run, results, config)
    print(f"{run}: {'finished' if new else 'all is done already'}\ncurves: {curves}\nnext: {command}")


def _next_command(run: Path, results: dict[str, dict[str, float]], config: DictConfig) -> str:
    folder = shlex.quote(str(run))
    text = "a red heart on a white background" if "colors" in (config.data.get("source") or {}) else "..."
    prompt = f'prompt="{text}" n=4 seed=0'
    if "diffusion" in results:
        return f"python sample.py ckpt={folder} {prompt}"
    if "classifier" in results:
        whole = (Path(config.autoencoder.ckpt) / checkpoint.MODEL_FILE).is_file()
        model = shlex.quote(config.autoencoder.ckpt) if whole else "RUN"
        return f"python sample.py ckpt={model} guidance=classifier guidance.classifier.path={folder} {prompt}"
    if config.task.autoencoder.freeze_encoder:
        return f'python sample.py ckpt=RUN decoder={folder} prompt="..."'
    own = {f"data.{name}": config.data[name] for name in ("train", "val", "size") if "train" in config.data}
    experiment = "txt2img_shards" if own else "txt2img"
    typed = {option.partition("=")[0]: option for option in typed_options() if _is_for_all(option)}
    options = list({**{name: f"{name}={value}" for name, value in own.items()}, **typed}.values())
    words = " ".join(map(shlex.quote, options))
    return f"python train.py experiment={experiment} {words}{' ' if words else ''}autoencoder.ckpt={folder}"


def _is_for_all(option: str) -> bool:
    """Whether an option is as good for the next stage: where it runs, what it reads and where that lies."""
    name = option.lstrip("+~").partition("=")[0].partition(".")[0]
    return name in ("trainer", "paths", "logger", "data", "seed")
