"""Stage 2: the denoiser and its conditioner in the latent space of a finished autoencoder."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from ldm.backbone.base import Backbone
from ldm.batch import Batch
from ldm.conditioner.base import Conditioner
from ldm.model import LatentDiffusion
from ldm.task.alignment import REPA
from ldm.task.latent import LatentTask
from ldm.task.optimization import LearningRate, Trained


class DiffusionTask(LatentTask[LatentDiffusion]):
    """Trains denoiser and conditioner by the loss of the model.

    alignment  backbone -> a loss beside that of the model; None: none

    The others are those of LatentTask.
    """

    scores = ("loss",)

    def __init__(
        self,
        model: LatentDiffusion,
        *,
        optimizer: Callable[[Trained], Optimizer],
        learning_rate: LearningRate,
        config: dict[str, Any],
        gradient_clip: float = 1.0,
        alignment: Callable[[Backbone], REPA] | None = None,
    ) -> None:
        super().__init__(
            model, optimizer=optimizer, learning_rate=learning_rate, config=config, gradient_clip=gradient_clip
        )
        self.alignment: REPA | None = None
        if alignment is not None:
            backbone = model.denoiser.backbone
            assert isinstance(backbone, Backbone)
            self.alignment = alignment(backbone)

    @property
    def reader(self) -> Conditioner:
        return self.model.conditioner

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        loss = self.training_loss(batch)
        if self.alignment is None:
            return loss
        aligned = self.alignment(batch.image, self.global_step)
        self.log("train/alignment", aligned.detach(), batch_size=len(batch.key))
        return loss + aligned

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.log_validation_loss(batch)
