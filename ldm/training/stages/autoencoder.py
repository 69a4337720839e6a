"""The first stage: the autoencoder in whose latent space the others work."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytorch_lightning as pl

from ldm import checkpoint
from ldm.autoencoder.base import Autoencoder, latent_moments
from ldm.batch import as_size, tensor_field
from ldm.config import build, is_rank_zero, packages_of, resolved
from ldm.data.base import DataModule
from ldm.data.experiments import IMAGES_ALONE
from ldm.data.fitting import fitting_experiment
from ldm.options.arguments import command_name
from ldm.options.sweep import typed_options
from ldm.task.autoencoder import AutoencoderTask
from ldm.task.base import Task
from ldm.training.next_command import model_in, sample_command
from ldm.training.options import StageOptions
from ldm.training.stage import Stage

NEXT_FILE = "next.txt"
"""The file in the stage's folder with the name of an experiment that trains on the same data."""


class AutoencoderStage(Stage[AutoencoderTask]):
    """Trains the autoencoder, and estimates shift and scale of its raw latents when it is trained.

    Args:
        options: The options that all stages have.
        loss: Config of the loss, with the discriminator.
        statistics_batches: Batches, evenly spread over the training set, from which shift and scale of the raw latents are
            estimated; None: all.
        freeze_encoder: Train the decoder of a given autoencoder alone: latents stay what they are.
        equivariance: Config of what makes latents change as images do; None: nothing does.
        latent_alignment: Config of a factory that makes a loss of raw latents beside; None: none.
    """

    model_file = checkpoint.AUTOENCODER_FILE
    builds_on = ()
    also_in = (checkpoint.MODEL_FILE,)
    never_taken = ("shift", "scale", "statistics_count")
    measured_by = ("metric*", "data.val*")
    panels: ClassVar = {
        "loss": ("train/reconstruction", "train/adversarial", "train/discriminator"),
        "PSNR in dB": ("val/psnr",),
        "distance of reconstructions": ("/rfrechet_efficientnet", "/rfid"),
        "codebook usage": ("val/codebook_usage",),
    }

    def __init__(
        self,
        options: StageOptions,
        *,
        loss: Mapping[str, Any],
        statistics_batches: int | None,
        freeze_encoder: bool,
        equivariance: Mapping[str, Any] | None,
        latent_alignment: Mapping[str, Any] | None,
    ) -> None:
        super().__init__(options)
        self.loss = loss
        self.statistics_batches = statistics_batches
        self.freeze_encoder = freeze_encoder
        self.equivariance = equivariance
        self.latent_alignment = latent_alignment
        self._fitting: str | None = None

    @property
    def is_given(self) -> bool:
        """True where an autoencoder is given whose decoder is not to be fine-tuned, or one only copies."""
        if self.freeze_encoder:
            return False
        return self.run.given_autoencoder is not None or self.run.autoencoder_copies

    def check(self, earlier: Sequence[Stage[Task]]) -> None:
        """Check that there is a decoder, where one is to be fine-tuned."""
        if self.freeze_encoder and self.run.config.autoencoder.ckpt is None:
            raise ValueError("to fine-tune a decoder, give the autoencoder that it belongs to: autoencoder.ckpt=FILE")
        for group, part in (("equivariance", self.equivariance), ("latent_alignment", self.latent_alignment)):
            if self.freeze_encoder and part is not None:
                raise ValueError(f"{group} changes what latents are, and here the encoder is frozen; set {group}=none")
        if self.freeze_encoder and self.run.config.init is not None:
            raise ValueError(
                "a decoder is fine-tuned from autoencoder.ckpt alone, with the encoder that it belongs to; leave out init"
            )

    def make_task(self) -> AutoencoderTask:
        """Build the network, with the weights of a given one where its decoder is fine-tuned, then the loss."""
        config = self.run.config
        trained = None
        if self.freeze_encoder:
            packages = packages_of(resolved(config))
            trained, config.autoencoder.network = checkpoint.load_autoencoder(
                config.autoencoder.ckpt, packages=packages
            )
            if self.run.autoencoder_copies:
                raise ValueError(
                    f"autoencoder.ckpt={config.autoencoder.ckpt} only copies images, so that there is no decoder to fine-tune; "
                    "give one that was trained"
                )
            pl.seed_everything(config.seed, workers=True, verbose=False)
        network = build(config.autoencoder.network)
        if trained is not None:
            network.load_state_dict(trained.state_dict())
        network.check_size(resolved(config.data.size))
        return self.make_autoencoder_task(network)

    def make_autoencoder_task(self, network: Autoencoder) -> AutoencoderTask:
        """Make the task of a network that is built, and its loss."""
        equivariance = build(self.equivariance)
        if equivariance is not None:
            equivariance.check_size(as_size(resolved(self.run.config.data.size)), network.downsampling_factor)
        return AutoencoderTask(
            network,
            build(self.loss),
            optimizer=build(self.optimizer),
            scheduler=build(self.scheduler),
            config=resolved(self.run.config.autoencoder.network),
            accumulate=self.accumulate,
            gradient_clip_val=self.trainer["gradient_clip_val"],
            freeze_encoder=self.freeze_encoder,
            equivariance=equivariance,
            latent_alignment=build(self.latent_alignment),
        )

    def check_data(self, data: DataModule) -> None:
        """Check that the data are images."""
        if data.encoding:
            raise ValueError(
                "latents train stage 2 alone, or a classifier; give the autoencoder that made them: autoencoder.ckpt=FILE"
            )
        data.check_sizes(self.task.model.check_size)

    def prepare(self, data: DataModule) -> None:
        """Check which further fields the samples have, for the next command; this stage itself needs images alone."""
        if is_rank_zero() and "train" in self.run.config.data and not self.next_file.is_file():
            self._fitting = fitting_experiment(data)

    def remember(self) -> None:
        """Write the name of the experiment that fits what samples have."""
        if self._fitting is not None:
            self.next_file.parent.mkdir(parents=True, exist_ok=True)
            self.next_file.write_text(f"{self._fitting}\n")

    @property
    def next_file(self) -> Path:
        """The file with the name of an experiment that can follow."""
        return self.folder / NEXT_FILE

    def take(self, file: Path) -> None:
        """Do nothing: it builds on no other stage."""

    def trainer_options(self, *, several: bool) -> dict[str, Any]:
        """Return options for two optimizers that are stepped by hand: each backward pass reaches one of the two networks."""
        every = self.run.config.trainer.log_every_n_steps * self.accumulate  # Lightning takes each batch for a step
        options: dict[str, Any] = {"accumulate_grad_batches": 1, "log_every_n_steps": every}
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
        """Return the command that trains a diffusion model on this autoencoder.

        Where the decoder of a diffusion model was fine-tuned, return the one that samples from that model with it.
        """
        config, folder = self.run.config, shlex.quote(str(self.run.folder))
        if self.freeze_encoder and (model := model_in(config.autoencoder.ckpt)) is not None:
            return sample_command(self.run, config.autoencoder.ckpt, model, f"decoder={folder}")
        own = {f"data.{name}": config.data[name] for name in ("train", "val", "size") if "train" in config.data}
        experiment = "txt2img"
        if own:
            experiment = self.next_file.read_text().strip() if self.next_file.is_file() else IMAGES_ALONE
        typed = {option.partition("=")[0]: option for option in typed_options() if _is_for_all(option)}
        options = list({**{name: f"{name}={value}" for name, value in own.items()}, **typed}.values())
        words = " ".join(map(shlex.quote, options))
        return f"{command_name('train')} experiment={experiment} {words}{' ' if words else ''}autoencoder.ckpt={folder}"


def _is_for_all(option: str) -> bool:
    """Return whether an option is as good for the next stage: where it runs, what it reads and where that lies."""
    name = option.lstrip("+~").partition("=")[0].partition(".")[0]
    return name in ("trainer", "paths", "logger", "data", "seed")
