"""Stage 2: the denoiser and its conditioner in the latent space of a finished autoencoder."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from ldm.backbone.base import Backbone
from ldm.batch import Batch
from ldm.conditioner.base import Conditioner
from ldm.model import LatentDiffusion
from ldm.task.alignment import REPA
from ldm.task.latent import LatentTask


class DiffusionTask(LatentTask[LatentDiffusion]):
    """Trains denoiser and conditioner by the loss of the model.

    alignment  backbone -> a loss beside that of the model; None: none

    shared     those of LatentTask
    """

    scores = ("loss",)

    def __init__(
        self,
        model: LatentDiffusion,
        *,
        alignment: Callable[[Backbone], REPA] | None = None,
        **shared: Any,
    ) -> None:
        super().__init__(model, **shared)
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
        aligned = self.alignment(batch.fields.get("image"), self.global_step)
        self.log("train/alignment", aligned.detach(), batch_size=len(batch.key))
        return loss + aligned

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.log_validation_loss(batch)
