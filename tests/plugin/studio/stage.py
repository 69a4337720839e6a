"""A stage: it learns to predict the mean colour of an image from its latent."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from ldm.autoencoder.base import Autoencoder
from ldm.batch import Batch
from ldm.checkpoint import AUTOENCODER_FILE, load_autoencoder
from ldm.config import build, packages_of, resolved
from ldm.data.base import DataModule
from ldm.optim.optimization import Trained
from ldm.optim.scheduler import attach
from ldm.task.base import Task
from ldm.training.options import StageOptions
from ldm.training.stage import Stage


class MeanColour(nn.Module):
    """A linear map from the mean of a latent to the mean colour of its image.

    Args:
        channels: Channels of latents.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.net = nn.Linear(channels, 3)

    def forward(self, latent: Tensor) -> Tensor:
        """Return mean colours `(B, 3)` in [-1, 1] for latents `(B, C, h, w)`."""
        return self.net(latent.mean((2, 3)))


class ColourTask(Task):
    """The task of the stage; its options are those of `Task`."""

    model: MeanColour
    inputs = ()
    metrics = ("error",)
    autoencoder: Sequence[Autoencoder] = ()
    """In a sequence, so that it is no part of the task, and not saved with it."""

    def error(self, batch: Batch) -> Tensor:
        """Return the mean squared error over a batch, a scalar."""
        (autoencoder,) = self.autoencoder
        with torch.no_grad():
            latent = autoencoder.latent(batch)
            wanted = autoencoder.image(latent).mean((2, 3))
        return (self.model(latent) - wanted).square().mean()

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss."""
        loss = self.error(batch)
        self.log("train/loss", loss.detach(), batch_size=len(batch.key))
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Log the score."""
        self.log("val/error", self.error(batch), batch_size=len(batch.key), sync_dist=True)

    def configure_optimizers(self) -> Any:
        """Return the optimizer and its scheduler."""
        optimizer = self.optimizer(Trained(self.model))
        return [optimizer], [attach(self.scheduler, optimizer, self.trainer.max_steps)]


class ColourStage(Stage[ColourTask]):
    """Trains `MeanColour` on the latents of the autoencoder that the same run has trained before.

    Args:
        options: The options that all stages have.
        channels: Channels of latents.
    """

    model_file = "colour.safetensors"
    builds_on = (AUTOENCODER_FILE,)
    measured_by = ("data.val*",)
    panels: ClassVar = {"error": ("train/loss", "val/error")}
    is_given = False

    def __init__(self, options: StageOptions, *, channels: int) -> None:
        super().__init__(options)
        self.channels = channels

    def check(self, earlier: Sequence[Stage[Task]]) -> None:
        """See `Stage.check`."""
        if not any(before.model_file in self.builds_on for before in earlier):
            raise ValueError(f"the stage {self.name} needs an autoencoder before it: 'stage=[autoencoder,colour]'")

    def make_task(self) -> ColourTask:
        """See `Stage.make_task`."""
        return ColourTask(
            MeanColour(self.channels),
            optimizer=build(self.optimizer),
            scheduler=build(self.scheduler),
            config={"_target_": "studio.stage.MeanColour", "channels": self.channels},
            gradient_clip_val=self.trainer["gradient_clip_val"],
        )

    def check_data(self, data: DataModule) -> None:
        """Do nothing: all data will do."""

    def prepare(self, data: DataModule) -> None:
        """Do nothing: nothing is learned before the first step."""

    def remember(self) -> None:
        """Do nothing: nothing was learned."""

    def take(self, file: Path) -> None:
        """See `Stage.take`."""
        autoencoder, _ = load_autoencoder(file, packages=packages_of(resolved(self.run.config)))
        self.task.autoencoder = (autoencoder.eval().requires_grad_(False),)

    def trainer_options(self, *, several: bool) -> dict[str, Any]:
        """Return no options."""
        return {}

    def complete(self, trainer: pl.Trainer, data: DataModule) -> None:
        """Do nothing: the model is complete."""

    def next_command(self) -> str:
        """See `Stage.next_command`."""
        return "look at the colours"
