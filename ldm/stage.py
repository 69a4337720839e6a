"""The stages of a run: how the task of each is built from the config."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from omegaconf import DictConfig
from safetensors.torch import load_file

from ldm import checkpoint
from ldm.autoencoder.base import Autoencoder
from ldm.conditioner.base import learned_state, set_learned_state
from ldm.conditioner.text import cut_captions, text_parts
from ldm.config import build, is_rank_zero, packages_of, resolved, untrusted
from ldm.data.base import SAMPLES_LOOKED_AT, DataModule
from ldm.task.autoencoder import AutoencoderTask
from ldm.task.classifier import ClassifierTask
from ldm.task.diffusion import DiffusionTask
from ldm.tensors import write_tensors

log = logging.getLogger(__name__)

Task = AutoencoderTask | DiffusionTask | ClassifierTask

MODEL_FILES = {
    "autoencoder": checkpoint.AUTOENCODER_FILE,
    "diffusion": checkpoint.MODEL_FILE,
    "classifier": checkpoint.CLASSIFIER_FILE,
}
"""Stage -> the file in the run folder that holds its finished model."""

LEARNED_FILE = "tokenizer.safetensors"
"""In a stage's folder: what was learned from the captions before training."""


def build_task(name: str, config: DictConfig, run: Path) -> Task:
    """The task of a stage. The network of an autoencoder that is given takes the place of the config's.

    No data are needed, nor written; `read_captions` is to follow.
    """
    if name == "autoencoder":
        return _autoencoder_task(config)
    stage = config.task[name]
    file = config.autoencoder.ckpt or run / checkpoint.AUTOENCODER_FILE
    trained = None
    if config.autoencoder.ckpt or Path(file).is_file():
        trained = _load_autoencoder(config, file)
    model_config = resolved(config.model)
    _check_loadable(model_config)
    _seed(config.seed)
    model = build(model_config)
    if trained is not None:
        model.autoencoder.load_state_dict(trained.state_dict())
    shared = _shared_options(stage)
    task: DiffusionTask | ClassifierTask
    if name == "diffusion":
        task = DiffusionTask(model, config=model_config, alignment=build(stage.alignment), **shared)
    else:
        task = ClassifierTask(model, config=model_config, **shared)
    return task


def read_captions(tasks: dict[str, Task], config: DictConfig, data: DataModule, run: Path) -> None:
    """Let the tasks learn from the training captions what they need, like a tokenizer, unless that was learned before."""
    for name, task in tasks.items():
        if isinstance(task, AutoencoderTask):
            continue
        learned = run / name / LEARNED_FILE
        if learned.is_file():
            set_learned_state(task.reader, load_file(learned))
        fields = task.reader.learns_from if is_rank_zero() else ()
        task.reader.prepare(data.samples(fields, config.task[name].captions_for_vocabulary) if fields else None)
        if text_parts(task.reader) and is_rank_zero() and not (run / name).is_dir():
            warning = cut_captions(task.reader, data.samples(("caption",), SAMPLES_LOOKED_AT))
            if warning is not None:
                log.warning(warning)


def _check_loadable(model_config: dict[str, Any]) -> None:
    """Raise ValueError where a checkpoint with this config would be refused by `checkpoint.load`."""
    for value in untrusted(model_config, packages_of(model_config)):
        raise ValueError(
            f"a model that is built by calling {value!r} could not be loaded again, since a checkpoint may construct classes "
            "alone; guidance that loads another file is for sampling: train without it, then give it to sample.py"
        )


def remember_captions(tasks: dict[str, Task], run: Path) -> None:
    """Keep what was learned from the captions, so that a run that goes on does not read them again."""
    for name, task in tasks.items():
        file = run / name / LEARNED_FILE
        if file.is_file() or not is_rank_zero() or isinstance(task, AutoencoderTask):
            continue
        if state := learned_state(task.reader):
            write_tensors(file, state)


def _autoencoder_task(config: DictConfig) -> AutoencoderTask:
    stage = config.task.autoencoder
    trained = _load_autoencoder(config, config.autoencoder.ckpt) if stage.freeze_encoder else None
    _seed(config.seed)
    network = build(config.autoencoder.network)
    if trained is not None:
        network.load_state_dict(trained.state_dict())
    network.check_size(config.data.size)
    return AutoencoderTask(
        network,
        build(stage.loss),
        config=resolved(config.autoencoder.network),
        accumulate=stage.accumulate,
        statistics_batches=stage.statistics_batches,
        freeze_encoder=stage.freeze_encoder,
        **_shared_options(stage),
    )


def _load_autoencoder(config: DictConfig, file: str | Path) -> Autoencoder:
    """A finished autoencoder, whose config takes the place of ours."""
    trained, config.autoencoder.network = checkpoint.load_autoencoder(file, packages=packages_of(resolved(config)))
    return trained


def _shared_options(stage: DictConfig) -> dict[str, Any]:
    return {
        "optimizer": build(stage.optimizer),
        "learning_rate": build(stage.learning_rate),
        "gradient_clip": stage.gradient_clip,
    }


def _seed(seed: int) -> None:
    """Before a stage's networks are built, so that they begin the same whatever was built or read before."""
    pl.seed_everything(seed, workers=True, verbose=False)
