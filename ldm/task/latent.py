"""What the stages that train in the latent space of a finished autoencoder have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor
from torch.optim import Optimizer

from ldm.batch import Batch
from ldm.checkpoint import CONFIG_KEY
from ldm.classifier.words import WordClassifier
from ldm.conditioner.base import Reader, learned_state, set_learned_state
from ldm.divergence import GRADIENT, LOSS, Watch
from ldm.frozen import FrozenParts
from ldm.model import LatentDiffusion
from ldm.task.optimization import LearningRate, Trained, clip_gradients

Model = TypeVar("Model", LatentDiffusion, WordClassifier)


class LatentTask(pl.LightningModule, ABC, Generic[Model]):
    """One optimiser over all that is not frozen; the autoencoder is.

    model          what is trained, with the autoencoder
    optimizer      what is trained -> optimiser
    learning_rate  over time
    config         that builds `model`; goes into checkpoints
    gradient_clip  largest gradient norm; None: gradients are not clipped
    """

    def __init__(
        self,
        model: Model,
        *,
        optimizer: Callable[[Trained], Optimizer],
        learning_rate: LearningRate,
        config: dict[str, Any],
        gradient_clip: float | None = 1.0,
    ) -> None:
        super().__init__()
        self.model: Model = model
        self.optimizer = optimizer
        self.learning_rate = learning_rate
        self.config = config
        self.gradient_clip = gradient_clip
        self.watch = Watch()
        self.frozen: FrozenParts | None = None

    @property
    @abstractmethod
    def reader(self) -> Reader:
        """The part of the model that reads fields, and may learn from samples of them before training."""

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the fields that are needed beside images or latents."""
        return self.reader.inputs

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        optimizer = self.optimizer(Trained(self))
        scheduler = self.learning_rate.schedule(optimizer, self.trainer.max_steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_fit_start(self) -> None:
        """Every rank takes what rank 0 has read; then the latents are held where the data ask for it."""
        reader, data = self.reader, self.trainer.datamodule  # type: ignore[attr-defined]
        set_learned_state(reader, self.trainer.strategy.broadcast(learned_state(reader)))
        data.hold(self._moments, data.batch_size)

    @torch.no_grad()
    def _moments(self, image: Tensor) -> Tensor:
        return self.model.autoencoder.encode(image.to(self.device)).moments.cpu()

    def training_loss(self, batch: Batch) -> Tensor:
        """The mean loss over a batch, logged as train/loss."""
        loss = self.model.loss(batch).mean()
        self.watch.see(self.global_step, LOSS, loss)
        self.log("train/loss", loss.detach(), prog_bar=True, batch_size=len(batch.key))
        return loss

    def configure_gradient_clipping(self, optimizer: Optimizer, *_: Any, **__: Any) -> None:
        """Clip here: Lightning refuses to under autocast with a fused optimiser, for the sake of fp16's loss scaling."""
        norm = clip_gradients(self.parameters(), self.gradient_clip)
        self.watch.see(self.global_step, GRADIENT, norm)
        self.log("train/gradient_norm", norm)

    def log_validation_loss(self, batch: Batch) -> None:
        """The mean loss over the validation images, as val/loss."""
        loss = self.model.loss(batch).mean()
        self.log("val/loss", loss, on_epoch=True, prog_bar=True, sync_dist=True, batch_size=len(batch.key))

    def setup(self, stage: str) -> None:
        self.frozen = self.frozen or FrozenParts(self)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint[CONFIG_KEY] = self.config
        if self.frozen is not None and self.trainer.is_global_zero:  # which alone writes it
            self.frozen.leave_out(checkpoint)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if self.frozen is not None:
            self.frozen.fill_in(checkpoint)
