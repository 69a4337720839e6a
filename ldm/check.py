"""What can be wrong with a run, said before it begins."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.callbacks import Callback

from ldm.callback.evaluation import Evaluation
from ldm.config import differences, resolved
from ldm.data.base import DataModule
from ldm.stage import Task
from ldm.task.autoencoder import AutoencoderTask
from ldm.task.diffusion import DiffusionTask

CONFIG_FILE = "config.yaml"
"""In a run folder: the settings of the run that it holds."""

FREE_TO_CHANGE = ("trainer", "logger", "paths", "run_dir", "optimized_metric", "search")
"""What may differ between a run and its continuation: where and how it runs, not what is trained."""

FREE_DATA = ("workers", "cache", "max_broken")
"""The same within `data`; and within a stage its `checkpoints`."""


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
    if str(config.trainer.precision).startswith("16"):
        raise ValueError(
            f"trainer.precision={config.trainer.precision} needs loss scaling, which stage 1's two optimisers do not have; "
            "use bf16-mixed or 32-true"
        )
    if config.trainer.get("limit_train_batches") not in (None, 1.0):
        raise ValueError(
            "trainer.limit_train_batches would cut epochs short, and with them the order that a run goes on in; "
            "use task.diffusion.steps, or fewer shards"
        )
    if "classifier" in config.task and config.autoencoder.ckpt is None:
        raise ValueError(
            "a classifier needs the autoencoder of the model that it shall guide; give its run, autoencoder.ckpt=runs/txt2img, "
            "or train it first: python train.py experiment=txt2img"
        )
    source = config.data.get("source")
    if source is not None and "_target_" not in source:
        raise ValueError(f"options were given for data.source, which data=shards does not have: {resolved(source)}")


def check_metrics(config: DictConfig, tasks: dict[str, Task], callbacks: dict[str, list[Callback]]) -> None:
    """Raise ValueError where a sweep, or the choice of the best checkpoint, asks for a score that nobody measures."""
    known = set()
    for stage, task in tasks.items():
        measured = {f"val/{name}" for name in task.scores}
        for callback in callbacks[stage]:
            if isinstance(callback, Evaluation):
                measured.update(f"eval/{name}" for measure in callback.metrics for name in measure.names)
        best = config.task[stage].checkpoints.best
        if best is not None and best not in measured:
            raise ValueError(
                f"task.{stage}.checkpoints.best={best} is not measured; choose from {', '.join(sorted(measured))}"
            )
        known |= measured
    names = sorted({name.rpartition("/")[2] for name in known})
    if config.optimized_metric is not None and config.optimized_metric not in {*names, *known}:
        raise ValueError(f"optimized_metric={config.optimized_metric} is not measured; choose from {', '.join(names)}")


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
    if data.encoding["text"] not in ("", task.model.conditioner.frozen_hash):
        raise ValueError(
            f"the tokens beside the latents were made by the text encoder {data.encoding['text']}, but the conditioner is "
            f"{task.model.conditioner.frozen_hash or 'trained from scratch'}; give the same, or encode without text"
        )


def check_alignment(config: DictConfig, data: DataModule) -> None:
    """Raise ValueError where the loss that needs images would get latents."""
    held = data.encoding or config.data.get("cache_latents", False)
    if "diffusion" in config.task and config.alignment is not None and held:
        raise ValueError(
            "alignment to a vision encoder needs the images, but training reads latents; set data.cache_latents=false, or "
            "data=shards instead of data=latents"
        )


def check_claim(run: Path, config: DictConfig) -> None:
    """Raise ValueError where the run folder holds a run of something else."""
    file = run / CONFIG_FILE
    if not file.is_file():
        return
    before = resolved(OmegaConf.load(file))
    here = config.copy()
    OmegaConf.set_struct(here, False)
    for key in FREE_TO_CHANGE:
        here[key] = before.get(key)
    for key in FREE_DATA:
        if key in here.data:
            here.data[key] = before["data"].get(key)
    for stage in here.task:
        here.task[stage].checkpoints = before["task"].get(stage, {}).get("checkpoints")
    changed = list(differences(before, resolved(here)))
    if changed:
        raise ValueError(
            f"{run} holds a run with other settings:\n  "
            + "\n  ".join(changed[:20])
            + f"\nkeep it and choose another name, like name={config.name}-2, or delete the folder to train anew"
        )
