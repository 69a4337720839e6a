"""A run: a folder, the stages trained in it one after the other, and the results."""

from __future__ import annotations

import json
import logging
import os
import shlex
import signal
import time
import warnings
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.callbacks import Callback, LearningRateMonitor
from pytorch_lightning.loggers import CSVLogger, Logger
from rich.console import Console
from rich.table import Table

from ldm import checkpoint
from ldm.callback.checkpoints import Checkpoints, Preempted, newest
from ldm.callback.ema import EMA
from ldm.callback.pictures import finish_pictures
from ldm.callback.progress import Progress
from ldm.callback.randomness import StepSeed
from ldm.check import CONFIG_FILE, check_alignment, check_claim, check_latents, check_metrics, check_whole
from ldm.config import build, in_sweep, is_rank_zero, packages_of, resolved
from ldm.data.base import DataModule
from ldm.plot import plot_curves
from ldm.stage import MODEL_FILES, Task, build_task, prepare_task, remember_captions
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
    check_whole(config)
    run = Path(config.run_dir)
    stages = [name for name in config.task if not (name == "autoencoder" and _is_given(config))]
    check_claim(run, config)
    todo = [name for name in stages if not (run / MODEL_FILES[name]).is_file()]
    if todo:
        try:
            _train_stages(todo, config, run)
        except Preempted as preempted:
            if is_rank_zero():
                print(preempted)
            raise SystemExit(128 + signal.SIGTERM) from None
    results = {name: json.loads((run / name / "results.json").read_text()) for name in stages}
    if is_rank_zero():
        _report(run, results, config, new=bool(todo))
    return _score(results, config.optimized_metric)


def _is_given(config: DictConfig) -> bool:
    """Whether stage 1 has nothing to train: its autoencoder is there, and its decoder is not to be fine-tuned."""
    return config.autoencoder.ckpt is not None and not config.task.autoencoder.freeze_encoder


def _train_stages(todo: list[str], config: DictConfig, run: Path) -> None:
    """Build everything first, so that whatever is wrong is said before any training; then train."""
    for pattern in BESIDE_THE_POINT:
        warnings.filterwarnings("ignore", f"(?s){pattern}")
    settings = resolved(config)
    _suit_hardware(config.trainer.accelerator, str(config.trainer.precision))
    data: DataModule = build(config.data)
    tasks = {name: build_task(name, config, run) for name in todo}
    callbacks = {name: list(build(config.task[name].callbacks).values()) for name in todo}
    check_metrics(config, tasks, callbacks)
    world = pl.Trainer(**resolved(config.trainer), logger=False, enable_checkpointing=False).world_size
    if world > 1 and in_sweep() and "LOCAL_RANK" not in os.environ:
        raise ValueError(
            f"a run of a sweep cannot start {world} processes itself; sweep with trainer.devices=1, "
            "or by a launcher that starts each run's processes"
        )
    data.open()  # the first that writes: all that can be checked without it has been
    if not (run / CONFIG_FILE).is_file():
        data.check_captions()  # of a run that goes on they were seen; it reads nothing but what it stopped in
    for name in todo:
        prepare_task(name, tasks[name], config, data, run)
    check_latents(data, tasks)
    check_alignment(config, data)
    for name in todo:
        data.set_batch(config.task[name].batch_size, config.task[name].accumulate, world)
    _claim(run, settings)
    remember_captions(tasks, run)
    for name in todo:
        task = tasks[name]
        if not isinstance(task, AutoencoderTask) and "autoencoder" in todo:
            trained, _ = checkpoint.load_autoencoder(run / checkpoint.AUTOENCODER_FILE, packages=packages_of(settings))
            task.model.autoencoder.load_state_dict(trained.state_dict())
        _fit(name, config, data, task, callbacks[name], run, world)


def _suit_hardware(accelerator: str, precision: str) -> None:
    """Faster kernels where they serve: TF32 on GPUs; on CPUs in bf16 no fused attention, whose backward pass is slow.

    (A step of the U-Net for icons, batch 32, took 248 ms with it and 159 ms without; in fp32, 188 ms and 200 ms.)
    """
    torch.set_float32_matmul_precision("high")
    if accelerator == "cpu" and precision.startswith("bf16"):
        torch.backends.cuda.enable_flash_sdp(False)  # despite its name, it is the switch of the CPU's kernel, too


def _fit(
    name: str,
    config: DictConfig,
    data: DataModule,
    task: Task,
    callbacks: list[Callback],
    run: Path,
    world: int,
) -> None:
    stage, folder = config.task[name], run / name
    options = resolved(config.trainer)
    if name == "autoencoder" and world > 1 and options["strategy"] in ("auto", "ddp"):
        options["strategy"] = "ddp_find_unused_parameters_true"  # each backward reaches one of the two networks
    if name != "autoencoder":
        options["accumulate_grad_batches"] = stage.accumulate
    last = newest(folder / "checkpoints")
    ema = EMA(stage.ema_decay)
    loggers = _loggers(config, name, folder)
    trainer = pl.Trainer(
        **options,
        max_steps=stage.steps,
        max_epochs=-1,
        val_check_interval=stage.validate_every_n_steps * stage.accumulate,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        inference_mode=False,  # guidance by gradients is evaluated, too
        enable_model_summary=False,
        default_root_dir=folder,
        logger=loggers,
        callbacks=[
            *callbacks,
            StepSeed(config.seed),
            LearningRateMonitor("step"),
            Progress(),
            ema,
            Checkpoints(folder / "checkpoints", **resolved(stage.checkpoints)),
        ],
    )
    data.set_batch(stage.batch_size, stage.accumulate, world)
    log.info("%s %s: %s", "continuing" if last else "training", name, folder)
    start = time.monotonic()
    try:
        trainer.fit(task, datamodule=data, ckpt_path=last, weights_only=True)
    except SystemExit:  # Lightning's answer to Ctrl-C
        last = newest(folder / "checkpoints")
        if trainer.is_global_zero:
            print(f"interrupted; the same command goes on from {last.stem if last else 'the beginning of this stage'}")
        raise SystemExit(128 + signal.SIGINT) from None
    seconds = time.monotonic() - start
    ema.apply(task)
    scores = trainer.validate(task, datamodule=data, verbose=False)[0]
    if trainer.is_global_zero:
        size = sum(parameter.numel() for parameter in task.parameters() if parameter.requires_grad)
        results = {**scores, "steps": trainer.global_step, "trained parameters": size, "seconds": round(seconds, 1)}
        (folder / "results.json").write_text(json.dumps(results, indent=2))
        checkpoint.save(run / MODEL_FILES[name], task.model, task.config)
    trainer.strategy.barrier()
    finish_pictures(loggers)


def _loggers(config: DictConfig, name: str, folder: Path) -> list[Logger]:
    """CSV always, and those of the config. Metrics that an interrupted run wrote are kept beside the new ones."""
    metrics = folder / "logs" / "metrics.csv"
    if metrics.is_file() and is_rank_zero():
        metrics.rename(metrics.with_name(f"metrics-{len(list(metrics.parent.glob('*.csv')))}.csv"))
    csv = CSVLogger(folder, name="", version="logs", flush_logs_every_n_steps=10)
    others = build(config.logger) or {}
    return [csv, *(logger(name=f"{config.name}-{name}") for logger in others.values())]


def _claim(run: Path, settings: dict[str, Any]) -> None:
    """Write the settings of a new run into its folder."""
    file = run / CONFIG_FILE
    if is_rank_zero() and not file.is_file():
        run.mkdir(parents=True, exist_ok=True)
        draft = file.with_name(".config.yaml")
        draft.write_text(OmegaConf.to_yaml(OmegaConf.create(settings)))
        draft.replace(file)


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
    own = [f"data.{name}={config.data[name]}" for name in ("train", "val", "side") if "train" in config.data]
    experiment = (
        ["experiment=txt2img_shards", *(shlex.quote(option) for option in own)] if own else ["experiment=txt2img"]
    )
    return f"python train.py {' '.join(experiment)} autoencoder.ckpt={folder}"
