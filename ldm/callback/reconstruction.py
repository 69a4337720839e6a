"""Measuring, while an autoencoder trains, how far the distribution of its reconstructions is from that of images."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pytorch_lightning as pl

from ldm.batch import Batch, tensor_field
from ldm.callback.measuring import Measuring
from ldm.metric.base import GenerationMetric
from ldm.metric.reconstruction import ReconstructionDistance

if TYPE_CHECKING:
    from ldm.data.base import DataModule

log = logging.getLogger(__name__)


class ReconstructionEvaluation(Measuring):
    """Measures the reconstructions of all validation images at each validation, by all ranks together: rFID as `val/rfid`.

    The reconstructions are those of the task's validation, with averaged weights. Sums over features are kept, not images.

    Args:
        metrics: Name -> metric; those that do not compare distributions of images are left out.
    """

    def __init__(self, metrics: Mapping[str, GenerationMetric]) -> None:
        self.distance = ReconstructionDistance(metrics.values())
        self.metrics = self.distance.metrics
        self._warned = False

    @property
    def logged(self) -> Sequence[str]:
        """Return the names of the distances."""
        return [f"val/{name}" for name in self.distance.names]

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Warn once of too few validation images."""
        data: DataModule = trainer.datamodule  # type: ignore[attr-defined]
        if trainer.is_global_zero and not self._warned:
            for doubt in self.distance.doubts(len(data.val_set)):
                log.warning(doubt)
        self._warned = True

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Follow the model to its device."""
        self.distance.to(pl_module.device)

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Add the images of a batch and their reconstructions, which the task returns."""
        self.distance.update(tensor_field(batch.fields, "image"), outputs)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log the distances."""
        for name, value in self.distance.compute().items():
            pl_module.log(f"val/{name}", value, sync_dist=True)  # equal on all ranks already
