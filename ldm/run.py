"""A run: a folder, the stages trained in it one after the other, and the results."""

from __future__ import annotations

import json
import logging
import os
import shlex
import time
import warnings
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.callbacks import Callback, LearningRateMonitor, ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger, Logger
from rich.console import Console
from rich.table import Table

from ldm import checkpoint
from ldm.callback.ema import EMA
from ldm.callback.evaluation import Evaluation
from ldm.callback.pictures import finish_pictures
from ldm.callback.progress import Progress
from ldm.callback.randomness import StepSeed
from ldm.config import build, differences, in_sweep, is_rank_zero, packages_of, resolved
from ldm.data.datamodule import CaptionedImages
from ldm.plot import plot_curves
from ldm.task.autoencoder import AutoencoderTask
from ldm.task.diffusion import DiffusionTask

log = logging.getLogger(__name__)

FREE_TO_CHANGE = ("trainer", "logger", "paths", "run_dir", "optimized_metric", "search")
"""What may differ between a run and its continuation: where and how it runs, not what is trained."""

MODEL_FILES = {"autoencoder": checkpoint.AUTOENCODER_FILE, "diffusion": checkpoint.MODEL_FILE}


BESIDE_THE_POINT = (
    ".*LeafSpec.*deprecated",  # Lightning about torch
    ".*manual optimization.*pre-optimization state",  # checkpoints hold the state after a step, as they should
    ".*does not have many workers",
    ".*lr_scheduler.step.*before.*optimizer.step",  # the discriminator's, which starts later than its schedule
    ".*exists and is not empty",
)
"""Warnings that tell a user nothing that he should act upon, as patterns of their beginnings."""


def train(config: DictConfig) -> float | None:
    """Train those stages of a config that are not finished in its run folder; returns the score that sweeps optimise."""
    _check_whole(config)
    run = Path(config.run_dir)
    stages = [name for name in config.task if not (name == "autoencoder" and config.autoencoder.ckpt)]
    _check_claim(run, config)
    todo = [name for name in stages if not (run / MODEL_FILES[name]).is_file()]
    if todo:
        _train_stages(todo, config, run)
    results = {name: json.loads((run / name / "results.json").read_text()) for name in stages}
    if is_rank_zero():
        _report(run, results, config, new=bool(todo))
    return _score(results, config.optimized_metric)


def _check_whole(config: DictConfig) -> None:
    """Raise ValueError where options were given for a part that the chosen experiment does not have."""
    for name, stage in config.task.items():
        if "gradient_clip" not in stage:  # which every stage's own config has
            raise ValueError(
                f"options were given for the stage {name!r}, which this experiment does not have: {resolved(stage)}; "
                "leave them out (for experiment=autoencoder use debug=tiny_autoencoder), or choose experiment=txt2img"
            )
    if str(config.trainer.precision).startswith("16"):
        raise ValueError(
            f"trainer.precision={config.trainer.precision} needs loss scaling, which stage 1's two optimisers do not have; "
            "use bf16-mixed or 32-true"
        )
    source = config.data.get("source")
    if source is not None and "_target_" not in source:
        raise ValueError(f"options were given for data.source, which data=shards does not have: {resolved(source)}")


def _train_stages(todo: list[str], config: DictConfig, run: Path) -> None:
    """Build everything first, so that whatever is wrong is said before any training; then train."""
    for pattern in BESIDE_THE_POINT:
        warnings.filterwarnings("ignore", f"(?s){pattern}")
    settings = resolved(config)
    pl.seed_everything(config.seed, workers=True, verbose=False)
    _suit_hardware(config.trainer.accelerator, str(config.trainer.precision))
    data: CaptionedImages = build(config.data)
    data.check_captions()
    tasks = {name: _build_task(name, config, data, run) for name in todo}
    callbacks = {name: list(build(config.task[name].callbacks).values()) for name in todo}
    _check_metric(config.optimized_metric, tasks, callbacks)
    world = pl.Trainer(**resolved(config.trainer), logger=False, enable_checkpointing=False).world_size
    if world > 1 and in_sweep() and "LOCAL_RANK" not in os.environ:
        raise ValueError(
            f"a run of a sweep cannot start {world} processes itself; sweep with trainer.devices=1, "
            "or by a launcher that starts each run's processes"
        )
    for name in todo:
        data.set_batch(config.task[name].batch_size, config.task[name].accumulate, world)
    _claim(run, settings)
    for name in todo:
        task = tasks[name]
        if isinstance(task, DiffusionTask) and "autoencoder" in todo:
            trained, _ = checkpoint.load_autoencoder(run / checkpoint.AUTOENCODER_FILE, packages=packages_of(settings))
            task.model.autoencoder.load_state_dict(trained.state_dict())
        _fit(name, config, data, task, callbacks[name], run, world)


def _check_metric(
    metric: str | None, tasks: dict[str, AutoencoderTask | DiffusionTask], callbacks: dict[str, list[Callback]]
) -> None:
    """Raise ValueError where a sweep would optimise a score that no stage measures."""
    known = {name for task in tasks.values() for name in task.scores}
    for callback in (callback for stage in callbacks.values() for callback in stage):
        if isinstance(callback, Evaluation):
            known.update(name for measure in callback.metrics for name in measure.names)
    if metric is not None and metric not in known:
        raise ValueError(f"optimized_metric={metric} is not measured; choose from {', '.join(sorted(known))}")


def _suit_hardware(accelerator: str, precision: str) -> None:
    """Faster kernels where they serve: TF32 on GPUs; on CPUs in bf16 no fused attention, whose backward pass is slow.

    (A step of the U-Net for icons, batch 32, took 248 ms with it and 159 ms without; in fp32, 188 ms and 200 ms.)
    """
    torch.set_float32_matmul_precision("high")
    if accelerator == "cpu" and precision.startswith("bf16"):
        torch.backends.cuda.enable_flash_sdp(False)  # despite its name, it is the switch of the CPU's kernel, too


def _build_task(name: str, config: DictConfig, data: CaptionedImages, run: Path) -> AutoencoderTask | DiffusionTask:
    stage = config.task[name]
    shared = {
        "optimizer": build(stage.optimizer),
        "learning_rate": build(stage.learning_rate),
        "gradient_clip": stage.gradient_clip,
    }
    if name == "autoencoder":
        network = build(config.autoencoder.network)
        network.check_side(config.data.side)
        return AutoencoderTask(
            network,
            build(stage.loss),
            config=resolved(config.autoencoder.network),
            accumulate=stage.accumulate,
            statistics_batches=stage.statistics_batches,
            **shared,
        )
    file = config.autoencoder.ckpt or run / checkpoint.AUTOENCODER_FILE
    trained = None
    if config.autoencoder.ckpt or Path(file).is_file():
        trained, config.autoencoder.network = checkpoint.load_autoencoder(file, packages=packages_of(resolved(config)))
    model_config = resolved(config.model)
    model = build(model_config)
    if trained is not None:
        model.autoencoder.load_state_dict(trained.state_dict())
    model.conditioner.prepare(data.captions(limit=stage.captions_for_vocabulary))
    return DiffusionTask(model, config=model_config, **shared)


def _fit(
    name: str,
    config: DictConfig,
    data: CaptionedImages,
    task: AutoencoderTask | DiffusionTask,
    callbacks: list[Callback],
    run: Path,
    world: int,
) -> None:
    stage, folder = config.task[name], run / name
    options = resolved(config.trainer)
    if name == "autoencoder" and world > 1 and options["strategy"] in ("auto", "ddp"):
        options["strategy"] = "ddp_find_unused_parameters_true"  # each backward reaches one of the two networks
    if name == "diffusion":
        options["accumulate_grad_batches"] = stage.accumulate
    last = folder / "checkpoints" / "last.ckpt"
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
        enable_model_summary=False,
        default_root_dir=folder,
        logger=loggers,
        callbacks=[
            *callbacks,
            StepSeed(config.seed),
            LearningRateMonitor("step"),
            Progress(),
            ema,
            ModelCheckpoint(
                folder / "checkpoints",
                filename="last",
                every_n_train_steps=stage.checkpoint_every_n_steps,
                save_top_k=1,
                enable_version_counter=False,
            ),
        ],
    )
    data.set_batch(stage.batch_size, stage.accumulate, world)
    begun = last.is_file()
    log.info("%s %s: %s", "continuing" if begun else "training", name, folder)
    start = time.monotonic()
    trainer.fit(task, datamodule=data, ckpt_path=last if begun else None, weights_only=True)
    if trainer.interrupted:
        raise KeyboardInterrupt
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


def _check_claim(run: Path, config: DictConfig) -> None:
    """Raise ValueError where the run folder holds a run of something else."""
    file = run / "config.yaml"
    if not file.is_file():
        return
    before = resolved(OmegaConf.load(file))
    here = config.copy()
    OmegaConf.set_struct(here, False)
    for key in FREE_TO_CHANGE:
        here[key] = before.get(key)
    here.data.workers = before["data"]["workers"]
    changed = list(differences(before, resolved(here)))
    if changed:
        raise ValueError(
            f"{run} holds a run with other settings:\n  "
            + "\n  ".join(changed[:20])
            + f"\nkeep it and choose another name, like name={config.name}-2, or delete the folder to train anew"
        )


def _claim(run: Path, settings: dict[str, Any]) -> None:
    """Write the settings of a new run into its folder."""
    file = run / "config.yaml"
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
    folder = shlex.quote(str(run))
    if "diffusion" in results:
        command = f'python sample.py ckpt={folder} prompt="a red heart on a white background" n=4 seed=0'
    else:
        own = [f"data.{split}={config.data[split]}" for split in ("train", "val") if split in config.data]
        experiment = (
            ["experiment=txt2img_shards", *(shlex.quote(option) for option in own)] if own else ["experiment=txt2img"]
        )
        command = f"python train.py {' '.join(experiment)} autoencoder.ckpt={folder}"
    print(f"{run}: {'finished' if new else 'all is done already'}\ncurves: {curves}\nnext: {command}")
