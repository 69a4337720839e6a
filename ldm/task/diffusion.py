"""Stage 2: the denoiser and its conditioner in the latent space of a finished autoencoder."""

from __future__ import annotations

from ldm.batch import Batch
from ldm.conditioner.base import Conditioner
from ldm.model import LatentDiffusion
from ldm.task.latent import LatentTask


class DiffusionTask(LatentTask[LatentDiffusion]):
    """Trains denoiser and conditioner by the loss of the model."""

    scores = ("loss",)

    @property
    def reader(self) -> Conditioner:
        return self.model.conditioner

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.log_validation_loss(batch)
