"""The first stage: the autoencoder in whose latent space the others work."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytorch_lightning as pl

from ldm import checkpoint
from ldm.autoencoder.base import latent_moments
from ldm.batch import tensor_field
from ldm.config import build, packages_of, resolved
from ldm.data.base import DataModule
from ldm.options.arguments import command_name
from ldm.options.sweep import typed_options
from ldm.task.autoencoder import AutoencoderTask
from ldm.task.base import Task
from ldm.training.options import StageOptions
from ldm.training.stage import Stage


class AutoencoderStage(Stage[AutoencoderTask]):
    """Trains the autoencoder, and estimates shift and scale of its raw latents when it is trained.

    Args:
        options: The options that all stages have.
        loss: Config of the loss, with the discriminator.
        statistics_batches: Batches, evenly spread over the training set, from which shift and scale of the raw latents are
            estimated; None: all.
        freeze_encoder: Train the decoder of a given autoencoder alone: latents stay what they are.
    """

    model_file = checkpoint.AUTOENCODER_FILE
    builds_on = ()
    measured_by = ("data.val*",)
    panels: ClassVar = {
        "loss": ("train/reconstruction", "train/adversarial", "train/discriminator"),
        "PSNR in dB": ("val/psnr",),
    }

    def __init__(
        self,
        options: StageOptions,
        *,
        loss: Mapping[str, Any],
        statistics_batches: int | None,
        freeze_encoder: bool,
    ) -> None:
        super().__init__(options)
        self.loss = loss
        self.statistics_batches = statistics_batches
        self.freeze_encoder = freeze_encoder

    @property
    def is_given(self) -> bool:
        """True where an autoencoder is given whose decoder is not to be fine-tuned."""
        return self.run.config.autoencoder.ckpt is not None and not self.freeze_encoder

    def check(self, earlier: Sequence[Stage[Task]]) -> None:
        """Check that there is a decoder, where one is to be fine-tuned."""
        if self.freeze_encoder and self.run.config.autoencoder.ckpt is None:
            raise ValueError("to fine-tune a decoder, give the autoencoder that it belongs to: autoencoder.ckpt=FILE")

    def make_task(self) -> AutoencoderTask:
        """Build the network, with the weights of a given one where its decoder is fine-tuned, then the loss."""
        config = self.run.config
        trained = None
        if self.freeze_encoder:
            packages = packages_of(resolved(config))
            trained, config.autoencoder.network = checkpoint.load_autoencoder(
                config.autoencoder.ckpt, packages=packages
            )
            pl.seed_everything(config.seed, workers=True, verbose=False)
        network = build(config.autoencoder.network)
        if trained is not None:
            network.load_state_dict(trained.state_dict())
        network.check_size(resolved(config.data.size))
        return AutoencoderTask(
            network,
            build(self.loss),
            optimizer=build(self.optimizer),
            scheduler=build(self.scheduler),
            config=resolved(config.autoencoder.network),
            accumulate=self.accumulate,
            gradient_clip_val=self.trainer["gradient_clip_val"],
            freeze_encoder=self.freeze_encoder,
        )

    def check_data(self, data: DataModule) -> None:
        """Check that the data are images."""
        if data.encoding:
            raise ValueError(
                "latents train stage 2 alone, or a classifier; give the autoencoder that made them: autoencoder.ckpt=FILE"
            )

    def prepare(self, data: DataModule) -> None:
        """Do nothing: images are all that it needs."""

    def remember(self) -> None:
        """Do nothing: nothing was learned before the first step."""

    def take(self, file: Path) -> None:
        """Do nothing: it builds on no other stage."""

    def trainer_options(self, *, several: bool) -> dict[str, Any]:
        """Return options for two optimizers that are stepped by hand: each backward pass reaches one of the two networks."""
        options: dict[str, Any] = {"accumulate_grad_batches": 1}
        if several and self.run.config.trainer.strategy in ("auto", "ddp"):
            options["strategy"] = "ddp_find_unused_parameters_true"
        return options

    def complete(self, trainer: pl.Trainer, data: DataModule) -> None:
        """Estimate shift and scale of the raw latents, over all ranks; not with a frozen encoder, whose latents are known."""
        model = self.task.model
        if int(model.statistics_count):
            return
        rank, world = trainer.global_rank, trainer.world_size
        limit = None if self.statistics_batches is None else self.statistics_batches * data.batch_size * world
        batches = data.training_pass(data.batch_size, rank=rank, world=world, limit=limit)
        moments = latent_moments(model, (tensor_field(batch.fields, "image") for batch in batches))
        moments.totals = trainer.strategy.reduce(moments.totals, reduce_op="sum")
        moments.store(model)

    def next_command(self) -> str:
        """Return the command that trains a diffusion model on this autoencoder, or samples with a fine-tuned decoder."""
        config, folder = self.run.config, shlex.quote(str(self.run.folder))
        if self.freeze_encoder:
            return f'{command_name("sample")} ckpt=RUN decoder={folder} prompt="..."'
        own = {f"data.{name}": config.data[name] for name in ("train", "val", "size") if "train" in config.data}
        experiment = "txt2img_shards" if own else "txt2img"
        typed = {option.partition("=")[0]: option for option in typed_options() if _is_for_all(option)}
        options = list({**{name: f"{name}={value}" for name, value in own.items()}, **typed}.values())
        words = " ".join(map(shlex.quote, options))
        return f"{command_name('train')} experiment={experiment} {words}{' ' if words else ''}autoencoder.ckpt={folder}"


def _is_for_all(option: str) -> bool:
    """Return whether an option is as good for the next stage: where it runs, what it reads and where that lies."""
    name = option.lstrip("+~").partition("=")[0].partition(".")[0]
    return name in ("trainer", "paths", "logger", "data", "seed")
