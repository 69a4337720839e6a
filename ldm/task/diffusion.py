"""Stage 2: the denoiser and its conditioner in the latent space of a finished autoencoder."""

from __future__ import annotations

from torch import Tensor

from ldm.backbone.base import Backbone
from ldm.batch import Batch
from ldm.conditioner.base import Conditioner
from ldm.model import LatentDiffusion
from ldm.task.alignment import Alignment
from ldm.task.latent import LatentTask


class DiffusionTask(LatentTask[LatentDiffusion]):
    """Trains denoiser and conditioner by the loss of the model."""

    scores = ("loss",)
    alignment: Alignment | None = None

    @property
    def reader(self) -> Conditioner:
        return self.model.conditioner

    def align(self, alignment: Alignment) -> None:
        """From now on also train by this loss beside that of the model."""
        backbone = self.model.denoiser.backbone
        assert isinstance(backbone, Backbone)
        alignment.watch(backbone.deepest)
        self.alignment = alignment

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        loss = self.training_loss(batch)
        if self.alignment is None:
            return loss
        aligned = self.alignment(batch.image, self.global_step)
        self.log("train/alignment", aligned.detach(), batch_size=len(batch.key))
        return loss + aligned

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.log_validation_loss(batch)
