"""Which values the options of a run can have, said before anything is built."""

from __future__ import annotations

import inspect
import unicodedata
from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl

from ldm.options import (
    COUNT,
    FLAG,
    FRACTION,
    NOT_NEGATIVE,
    POSITIVE,
    SIZE,
    OneOf,
    Optional,
    Real,
    Rule,
    Whole,
    check_all,
)

LONGEST_NAME = 150
"""Bytes in the name of a run: folders and files made of it have longer ones."""


class FolderName(Rule):
    """Texts that can be the name of one folder."""

    def allows(self, value: Any) -> bool:
        return (
            isinstance(value, str)
            and value.strip() not in ("", ".", "..")
            and value == value.strip()
            and not any(letter in "/\\" or unicodedata.category(letter) == "Cc" for letter in value)
            and len(value.encode(errors="surrogateescape")) <= LONGEST_NAME
        )

    def __str__(self) -> str:
        return (
            "the name of one folder, without / or \\, space at its ends or . and .. alone, "
            f"of at most {LONGEST_NAME} bytes (other folders: paths.runs_dir=FOLDER)"
        )


class Shares(Rule):
    """Two numbers from 0 to below 1, as optimisers of Adam's kind have them."""

    def allows(self, value: Any) -> bool:
        one = Real(0.0, 1.0, below=True)
        return isinstance(value, list) and len(value) == 2 and all(map(one.allows, value))

    def __str__(self) -> str:
        return "a list of two numbers, at least 0, below 1"


class Devices(Rule):
    """Numbers of devices, or lists of which, as Lightning takes them."""

    def allows(self, value: Any) -> bool:
        if isinstance(value, list):
            return bool(value) and all(map(Whole(0).allows, value))
        return COUNT.allows(value) or value in (-1, "-1", "auto") or (isinstance(value, str) and value[:1].isdigit())

    def __str__(self) -> str:
        return "a whole number, at least 1, -1 for all, or a list of some, like [0,1]"


RULES: dict[str, Rule] = {
    "name": FolderName(),
    "seed": Whole(0, 2**32 - 1),
    "search.trials": COUNT,
    "data.size": SIZE,
    "data.crop": OneOf(("center", "random")),
    "data.flip": FLAG,
    "data.cache_latents": FLAG,
    "data.max_broken": FRACTION,
    "data.workers": Whole(0),
    "data.streams": COUNT,
    "data.window": COUNT,
    "data.buffer": COUNT,
    "data.source.count": COUNT,
    "data.source.samples_per_shard": COUNT,
    "data.source.val_share": Real(0.0, 1.0, above=True, below=True),
    "task.*.steps": COUNT,
    "task.*.batch_size": COUNT,
    "task.*.accumulate": COUNT,
    "task.*.gradient_clip": Optional(POSITIVE, "no clipping"),
    "task.*.ema_decay": Real(0.0, 1.0, below=True),
    "task.*.validate_every_n_steps": COUNT,
    "task.*.every_n_steps": COUNT,
    "task.*.checkpoints.keep": COUNT,
    "task.*.checkpoints.mode": OneOf(("min", "max")),
    "task.*.captions_for_vocabulary": COUNT,
    "task.*.statistics_batches": Optional(COUNT, "all"),
    "task.*.freeze_encoder": FLAG,
    "task.*.optimizer.lr": POSITIVE,
    "task.*.optimizer.betas": Shares(),
    "task.*.optimizer.momentum": Real(0.0, 1.0, below=True),
    "task.*.optimizer.weight_decay": NOT_NEGATIVE,
    "task.*.optimizer.fused": FLAG,
    "task.*.learning_rate.warmup_steps": Whole(0),
    "task.*.learning_rate.decay": OneOf(("constant", "linear", "cosine")),
    "task.*.learning_rate.final": FRACTION,
    "task.*.loss.start_step": Whole(0),
    "task.*.loss.*_weight": NOT_NEGATIVE,
    "task.*.callbacks.*.num_images": COUNT,
    "task.*.callbacks.*.final_images": Optional(COUNT, "one for each validation caption"),
    "task.*.callbacks.*.count": COUNT,
    "alignment.weight": NOT_NEGATIVE,
    "alignment.steps": COUNT,
    "conditioner.*drop_rate": FRACTION,
    "model.vocabulary": COUNT,
    "model.denoiser.learned_variance": FLAG,
    "model.loss.noise_offset": NOT_NEGATIVE,
    "model.loss.variational_weight": NOT_NEGATIVE,
    "sampler.steps": COUNT,
    "guidance.scale": Real(),
    "trainer.devices": Devices(),
    "trainer.num_nodes": COUNT,
    "trainer.deterministic": Optional(FLAG, "as PyTorch is set"),
    "trainer.log_every_n_steps": Whole(0),
}
"""Options of train.py, or patterns of them -> the values that they can have."""

PRECISIONS = ("32-true", "bf16-mixed")

OURS = {
    **dict.fromkeys(("max_steps", "min_steps", "max_epochs", "min_epochs", "max_time"), "task.STAGE.steps"),
    **dict.fromkeys(("limit_train_batches", "overfit_batches"), "task.STAGE.steps, or fewer shards"),
    **dict.fromkeys(("val_check_interval", "check_val_every_n_epoch"), "task.STAGE.validate_every_n_steps"),
    **dict.fromkeys(("gradient_clip_val", "gradient_clip_algorithm"), "task.STAGE.gradient_clip"),
    "accumulate_grad_batches": "task.STAGE.accumulate",
    "callbacks": "task.STAGE.callbacks",
    "enable_checkpointing": "task.STAGE.checkpoints",
    "logger": "logger=wandb, say",
    "default_root_dir": "run_dir",
    "fast_dev_run": "debug=tiny",
    **dict.fromkeys(("num_sanity_val_steps", "use_distributed_sampler", "inference_mode", "enable_model_summary"), ""),
    **dict.fromkeys(("reload_dataloaders_every_n_epochs", "enable_progress_bar", "barebones"), ""),
}
"""Options of Lightning's trainer that a run sets by itself -> what to use instead."""


def check_values(settings: Mapping[str, Any]) -> None:
    """Raise ValueError for the first option of a run that has a value which it cannot have."""
    check_all(settings, RULES)
    _check_trainer(settings["trainer"])


def _check_trainer(options: Mapping[str, Any]) -> None:
    if options["precision"] not in PRECISIONS:
        raise ValueError(
            f"trainer.precision={options['precision']} cannot be; give one of {', '.join(PRECISIONS)}: fp16 needs loss "
            "scaling, which stage 1's two optimisers do not have, and weights that are stored in bf16 are too coarse for "
            "small steps and for averages"
        )
    for name in options:
        if name in OURS:
            instead = f"; use {OURS[name]}" if OURS[name] else ""
            raise ValueError(f"trainer.{name} cannot be given, since a run sets it by itself{instead}")
        if name not in inspect.signature(pl.Trainer).parameters:
            raise ValueError(f"there is no option trainer.{name}: Lightning's Trainer does not have it")
