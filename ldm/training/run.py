"""A run: a folder, the stages trained in it one after the other, and the results."""

from __future__ import annotations

import logging
import signal
import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig

from ldm.autoencoder.derived import underlying_fields
from ldm.callback.checkpoints import newest
from ldm.callback.signals import Preempted, Signals
from ldm.config import build, is_rank_zero, resolved
from ldm.data.base import DataModule
from ldm.files.run_names import CONFIG_FILE
from ldm.options.sweep import chosen_experiment, typed_options
from ldm.processes import ranks
from ldm.processes.memory import limit_memory
from ldm.report.record import heard_warnings
from ldm.task.base import Task
from ldm.training.claim import Continuation, compare, run_output, take, trained_by
from ldm.training.fit import fit, measure
from ldm.training.hints import idle_devices, large_on_cpu
from ldm.training.history import begin_record, end_record
from ldm.training.options import RunContext, split_options
from ldm.training.report import report, score
from ldm.training.rules import check_values
from ldm.training.stage import Stage
from ldm.training.validate import (
    check_batches,
    check_callbacks,
    check_finished,
    check_groups,
    check_images,
    check_metrics,
    check_prompts,
    check_stages,
    first_trainer,
    leave_out_leftovers,
    needed_fields,
)

log = logging.getLogger(__name__)

IGNORED_WARNINGS = (
    ".*LeafSpec.*deprecated",  # Lightning about torch
    ".*resuming from a checkpoint that ended before the epoch ended",  # the data module knows where it stood
    ".*does not have many workers",
    ".*lr_scheduler.step.*before.*optimizer.step",  # the discriminator's, which starts later than its schedule
    ".*exists and is not empty",
    "The number of training batches .* is smaller than the logging interval",  # an epoch means nothing here
)
"""Warnings that need no action by the user, as patterns of their beginnings."""


def train(config: DictConfig) -> float | None:
    """Train those stages of a config that are not finished in its run folder.

    Args:
        config: The composed config. With `validate_only`, finished models are measured instead.

    Returns:
        The score that sweeps optimise; None where the config names none.

    Raises:
        ValueError: If something is wrong with the config, the data or the run folder, before anything is written.
    """
    check_groups(resolved(config))
    left_out = leave_out_leftovers(config, typed_options(), chosen_experiment())
    if left_out and is_rank_zero():
        print(
            f"left out of the experiment, since what was chosen in its place has no such option: {', '.join(left_out)}"
        )
    settings = _settings(config)
    check_values(settings)
    with heard_warnings() as warnings_heard:
        return _train(config, settings, warnings_heard)


def _train(config: DictConfig, settings: dict[str, Any], heard: Sequence[str]) -> float | None:
    """Do the work of `train`, with checked settings; warnings of the run are appended to `heard`."""
    run = RunContext(config, Path(config.paths.output_dir))
    stages = [stage for stage in make_stages(run) if not stage.is_given]
    check_stages(stages)
    if is_rank_zero():
        run_output(run.folder).check()
    again = compare(run.folder, settings, stages)
    if config.validate_only:
        check_finished(stages, again)
        todo = stages
    else:
        todo = [s for s in stages if not s.is_finished or s.name in again.measured or s.name in again.lengthened]
    if todo:
        if is_rank_zero() and (hint := idle_devices(config)) is not None:
            print(hint)
        try:
            _train_stages(todo, stages, run, again, heard)
        except Preempted as preempted:
            if not is_rank_zero():  # whose end would be taken for a failure by the process that started this one
                raise SystemExit(0) from None
            print(preempted)
            raise SystemExit(128 + signal.SIGTERM) from None
    for stage in stages:
        ranks.appears(stage.results_file)  # to all processes; the first has written it
    if is_rank_zero():
        report(run.folder, stages, new=bool(todo))
    return score([stage.read_results() for stage in stages], config.optimized_metric)


def make_stages(run: RunContext) -> list[Stage[Task]]:
    """Make the stages that a config describes, in their order; their networks are built later."""
    stages = []
    for name in run.config.stage:
        options, own = split_options(run, str(name))
        stages.append(build(own)(options))
    return stages


def _settings(config: DictConfig) -> dict[str, Any]:
    """Return the config as plain values; measuring a run alone does not make it another one."""
    return {**resolved(config), "validate_only": False}


def _train_stages(
    todo: Sequence[Stage[Task]],
    stages: Sequence[Stage[Task]],
    run: RunContext,
    again: Continuation,
    heard: Sequence[str],
) -> None:
    """Build everything first, so that every mistake is found before any training; then train."""
    for pattern in IGNORED_WARNINGS:
        warnings.filterwarnings("ignore", f"(?s){pattern}")
    quiet_lightning()
    config, settings = run.config, _settings(run.config)
    suit_hardware(config.trainer.accelerator, str(config.trainer.precision))
    first = first_trainer(config)
    limit_memory(first.strategy.root_device)
    check_batches(todo, first.world_size)
    signals = Signals()
    for stage in todo:
        stage.build(signals, {one.name: one.all_panels for one in stages})
        check_callbacks(stage)
        if is_rank_zero():
            _print_hints(stage, config.trainer.accelerator)
    check_metrics(config.optimized_metric, todo)
    check_prompts(todo)
    data = _open_data(todo, run, first)
    with run_output(run.folder).lock() if is_rank_zero() else nullcontext():
        ranks.start(first, str(config.trainer.strategy))
        try:
            ranks.check_shared(first, run.folder)
            ranks.check_same(first, "the configuration", trained_by(settings, stages))
            if is_rank_zero():
                take(run.folder, settings, _made_anew(todo, again, measured=config.validate_only))
                begin_record(run.folder, config, stages, processes=first.world_size)
            for stage in todo:
                stage.remember()
                if is_rank_zero():
                    stage.write_init()
            with signals:
                for place, stage in enumerate(todo):
                    if config.validate_only:
                        measure(stage, data, first, stage.file)
                    else:
                        _take_from(todo[:place], stage, first)
                        fit(stage, data, first)
        except BaseException:
            ranks.end(first)
            raise
        finally:
            if is_rank_zero():
                end_record(run.folder, heard)


def _print_hints(stage: Stage[Task], accelerator: str) -> None:
    """Print what a user should know of a stage before it is trained."""
    summary = None if stage.warm_start is None else stage.warm_start.summary(stage.name)
    for hint in (large_on_cpu(stage, accelerator), stage.left_out, summary):
        if hint is not None:
            print(hint)


def _open_data(todo: Sequence[Stage[Task]], run: RunContext, first: pl.Trainer) -> DataModule:
    """Open the data, check that they fit the stages, and let these learn from them. This is the first step that writes."""
    data: DataModule = build(run.config.data)
    data.need(underlying_fields(needed_fields(todo)))
    data.open()
    for stage in todo:
        check_images(data, stage.evaluations)
        stage.check_data(data)
    if is_rank_zero() and not (run.folder / CONFIG_FILE).is_file():
        data.check_fields()  # a run that continues has checked them; it reads only the samples from where it stopped
    for stage in todo:
        stage.prepare(data)
        data.set_batch(stage.batch_size, stage.accumulate, first.world_size)
        if is_rank_zero():
            newest(stage.checkpoints)  # raises an error where a checkpoint cannot be continued from
    return data


def _made_anew(todo: Sequence[Stage[Task]], again: Continuation, *, measured: bool) -> list[Path]:
    """Return the files of results and models that will be replaced."""
    results = [s.results_file for s in todo if measured or s.name in again.measured or s.name in again.lengthened]
    return results + [stage.file for stage in todo if stage.name in again.lengthened]


def _take_from(earlier: Sequence[Stage[Task]], stage: Stage[Task], first: pl.Trainer) -> None:
    """Give a stage the models that it builds on and that earlier stages have just finished."""
    for before in earlier:
        if before.model_file in stage.builds_on:
            file = ranks.agreed_file(first, before.file)
            assert file is not None
            stage.take(file)


def suit_hardware(accelerator: str, precision: str) -> None:
    """Choose faster kernels where they serve: TF32 on GPUs; on CPUs in bf16 no fused attention, whose backward pass is slow.

    (A step of the U-Net for icons, batch 32, took 248 ms with it and 159 ms without; in fp32, 188 ms and 200 ms.)
    """
    torch.set_float32_matmul_precision("high")
    if accelerator == "cpu" and precision.startswith("bf16"):
        torch.backends.cuda.enable_flash_sdp(False)  # despite its name, it is the switch of the CPU's kernel, too


def quiet_lightning() -> None:
    """Let Lightning log only warnings, since it advertises, and repeats messages that this program gives itself."""
    for name in ("pytorch_lightning", "lightning_fabric"):  # which set their level themselves when they are imported
        logging.getLogger(name).setLevel(logging.WARNING)
