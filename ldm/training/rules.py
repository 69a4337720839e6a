"""The values that the options of a run can have, checked before anything is built."""

from __future__ import annotations

import inspect
import unicodedata
from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl

from ldm.options.rule import (
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
from ldm.pretrained.precision import PRECISIONS

LONGEST_NAME = 150
"""Bytes in the name of a run: folders and files made of it have longer ones."""


class FolderName(Rule):
    """Texts that can be the name of one folder."""

    def allows(self, value: Any) -> bool:
        """Return whether a value is one of the set."""
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


class Betas(Rule):
    """The two decay rates of the running averages of Adam and its like, each at least 0 and below 1."""

    def allows(self, value: Any) -> bool:
        """Return whether a value is one of the set."""
        one = Real(0.0, 1.0, below=True)
        return isinstance(value, list) and len(value) == 2 and all(map(one.allows, value))

    def __str__(self) -> str:
        return "a list of two numbers, at least 0, below 1"


class Words(Rule):
    """Lists of texts."""

    def allows(self, value: Any) -> bool:
        """Return whether a value is one of the set."""
        return isinstance(value, list) and all(isinstance(word, str) for word in value)

    def __str__(self) -> str:
        return "a list of words, like [first,second]"


class Devices(Rule):
    """Numbers of devices, or lists of their indices, as Lightning takes them."""

    def allows(self, value: Any) -> bool:
        """Return whether a value is one of the set."""
        if isinstance(value, list):
            return bool(value) and all(map(Whole(0).allows, value))
        return COUNT.allows(value) or value in (-1, "-1", "auto") or (isinstance(value, str) and value[:1].isdigit())

    def __str__(self) -> str:
        return "a whole number, at least 1, -1 for all, or a list of some, like [0,1]"


RULES: dict[str, Rule] = {
    "name": FolderName(),
    "seed": Whole(0, 2**32 - 1),
    "init_new": Words(),
    "encode_precision": OneOf(PRECISIONS),
    "stage.*.encode_precision": OneOf(PRECISIONS),
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
    "data.source.val_fraction": Real(0.0, 1.0, above=True, below=True),
    "stage.*.batch_size": COUNT,
    "stage.*.validate_every_n_steps": COUNT,
    "stage.*.trainer.max_steps": COUNT,
    "stage.*.trainer.accumulate_grad_batches": COUNT,
    "stage.*.trainer.gradient_clip_val": Optional(POSITIVE, "no clipping"),
    "stage.*.captions_for_vocabulary": COUNT,
    "stage.*.statistics_batches": Optional(COUNT, "all"),
    "stage.*.freeze_encoder": FLAG,
    "stage.*.optimizer.lr": POSITIVE,
    "stage.*.optimizer.betas": Betas(),
    "stage.*.optimizer.momentum": Real(0.0, 1.0, below=True),
    "stage.*.optimizer.weight_decay": NOT_NEGATIVE,
    "stage.*.optimizer.fused": FLAG,
    "stage.*.scheduler.warmup_steps": Whole(0),
    "stage.*.scheduler.final": FRACTION,
    "stage.*.scheduler.cooldown": FRACTION,
    "stage.*.loss.start_step": Whole(0),
    "stage.*.loss.*_weight": NOT_NEGATIVE,
    "stage.*.callbacks.ema.decay": Real(0.0, 1.0, below=True),
    "stage.*.callbacks.*.every_n_steps": COUNT,
    "stage.*.callbacks.checkpoint.keep": Optional(COUNT, "all"),
    "stage.*.callbacks.checkpoint.mode": OneOf(("min", "max")),
    "stage.*.callbacks.*.num_images": COUNT,
    "stage.*.callbacks.*.final_images": Optional(COUNT, "one for each validation caption"),
    "stage.*.callbacks.*.count": COUNT,
    "alignment.weight": NOT_NEGATIVE,
    "alignment.steps": COUNT,
    "conditioner.*drop_rate": FRACTION,
    "model.vocabulary": COUNT,
    "model.denoiser.learned_variance": FLAG,
    "model.loss.noise_offset": NOT_NEGATIVE,
    "model.loss.variational_weight": NOT_NEGATIVE,
    "model.loss.pixel_weights": FLAG,
    "sampler.steps": COUNT,
    "guidance.scale": Real(),
    "trainer.devices": Devices(),
    "trainer.num_nodes": COUNT,
    "trainer.deterministic": Optional(FLAG, "as PyTorch is set"),
    "trainer.log_every_n_steps": Whole(0),
    "trainer.overfit_batches": Whole(0),
    "trainer.detect_anomaly": FLAG,
    "trainer.enable_model_summary": FLAG,
    "validate_only": FLAG,
    "tags": Words(),
}
"""Options of train.py, or patterns of them -> their rules."""

EACH_STAGE = ("max_steps", "accumulate_grad_batches", "gradient_clip_val")
"""Options of Lightning's trainer that every stage has for itself."""

ALL_STAGES = ("accelerator", "devices", "num_nodes", "strategy", "precision", "overfit_batches")
"""Options of Lightning's trainer that are the same for all stages, whose processes are started once."""

FIXED = {
    "max_epochs": (-1, "stage.NAME.trainer.max_steps"),
    "check_val_every_n_epoch": (None, "stage.NAME.validate_every_n_steps"),
    "num_sanity_val_steps": (0, "debug=tiny"),
    "use_distributed_sampler": (False, ""),
    "inference_mode": (False, ""),
}
"""Options of Lightning's trainer that can have only one value -> the value, and what to use instead."""

OURS = {
    **dict.fromkeys(("min_steps", "min_epochs", "max_time", "limit_train_batches"), "stage.NAME.trainer.max_steps"),
    "val_check_interval": "stage.NAME.validate_every_n_steps",
    "gradient_clip_algorithm": "stage.NAME.trainer.gradient_clip_val",
    "callbacks": "stage.NAME.callbacks",
    "enable_checkpointing": "stage.NAME.callbacks.checkpoint",
    "enable_progress_bar": "stage.NAME.callbacks.progress=null",
    "logger": "logger=wandb, say",
    "default_root_dir": "paths.output_dir",
    "fast_dev_run": "debug=tiny",
    **dict.fromkeys(("reload_dataloaders_every_n_epochs", "barebones", "plugins"), ""),
}
"""Options of Lightning's trainer that a run sets by itself -> what to use instead."""


def check_values(settings: Mapping[str, Any]) -> None:
    """Check the values of all options of a run that have a rule.

    Args:
        settings: The config, as plain values.

    Raises:
        ValueError: For the first option that has a value which it cannot have.
    """
    check_all(settings, RULES)
    if settings["trainer"]["precision"] not in PRECISIONS:
        raise ValueError(
            f"trainer.precision={settings['trainer']['precision']} cannot be; give one of {', '.join(PRECISIONS)}: fp16 needs "
            "loss scaling, which stage 1's two optimisers do not have, and weights that are stored in bf16 are too coarse for "
            "small steps and for averages"
        )
    _check_trainer("trainer", settings["trainer"], dict.fromkeys(EACH_STAGE, "stage.NAME.trainer.{name}"))
    for name, stage in settings["stage"].items():
        _check_trainer(
            f"stage.{name}.trainer", stage["trainer"], dict.fromkeys((*ALL_STAGES, *FIXED), "trainer.{name}")
        )


def _check_trainer(prefix: str, options: Mapping[str, Any], elsewhere: Mapping[str, str]) -> None:
    """Raise ValueError for the first option of a trainer that is none, or cannot be given at this place."""
    for name, value in options.items():
        if name in elsewhere:
            raise ValueError(f"{prefix}.{name} cannot be given; use {elsewhere[name].format(name=name)}")
        if name in OURS or (name in FIXED and value != FIXED[name][0]):
            instead = OURS[name] if name in OURS else FIXED[name][1]
            raise ValueError(
                f"{prefix}.{name} cannot be given, since a run sets it by itself{f'; use {instead}' if instead else ''}"
            )
        if name not in inspect.signature(pl.Trainer).parameters and not name.startswith("_"):
            raise ValueError(f"there is no option {prefix}.{name}: Lightning's Trainer does not have it")
