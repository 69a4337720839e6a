"""The common base of tasks in the latent space of a finished autoencoder."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, Generic, TypeVar

import torch
from pytorch_lightning.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor
from torch.optim import Optimizer

from ldm.batch import Batch
from ldm.classifier.base import NoisyClassifier
from ldm.conditioner.base import Reader, learned_state, set_learned_state
from ldm.model import LatentDiffusion
from ldm.optim.divergence import GRADIENT, LOSS
from ldm.optim.optimization import Trained, clip_gradients
from ldm.optim.scheduler import attach
from ldm.task.base import Task

Model = TypeVar("Model", LatentDiffusion, NoisyClassifier)


class LatentTask(Task, Generic[Model]):
    """A task with one optimizer over all that is not frozen; the autoencoder is frozen.

    Args:
        model: What is trained, with the autoencoder.
        optimizer: Makes the optimizer of what is trained.
        scheduler: Makes the learning-rate scheduler of the optimizer.
        config: The config that builds `model`; it goes into checkpoints.
        gradient_clip_val: Largest gradient norm; None: gradients are not clipped.
    """

    model: Model

    @property
    @abstractmethod
    def reader(self) -> Reader:
        """The part of the model that reads fields, and may learn from samples of them before training."""

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """Return the optimizer of all that is trained, and its scheduler, which Lightning steps after each of its steps."""
        optimizer = self.optimizer(Trained(self))
        scheduler = attach(self.scheduler, optimizer, self.trainer.max_steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_fit_start(self) -> None:
        """Give every rank what rank 0 has read; then hold the latents in memory where the data ask for it."""
        reader, data = self.reader, self.trainer.datamodule  # type: ignore[attr-defined]
        set_learned_state(reader, self.trainer.strategy.broadcast(learned_state(reader)))
        data.cache_latents(self._moments, data.batch_size)

    @torch.no_grad()
    def _moments(self, image: Tensor) -> Tensor:
        return self.model.autoencoder.encode(image.to(self.device)).moments.cpu()

    def training_loss(self, batch: Batch) -> Tensor:
        """Return the mean loss over a batch, a scalar, and log it as train/loss."""
        loss = self.model.loss(batch).mean()
        self.watch.see(self.global_step, LOSS, loss)
        self.log("train/loss", loss.detach(), prog_bar=True, batch_size=len(batch.key))
        return loss

    def configure_gradient_clipping(self, optimizer: Optimizer, *_: Any, **__: Any) -> None:
        """Clip here, since Lightning refuses to under autocast with a fused optimizer, for the sake of fp16's loss scaling."""
        norm = clip_gradients(self.parameters(), self.gradient_clip_val)
        self.watch.see(self.global_step, GRADIENT, norm)
        self.log("train/gradient_norm", norm)
