"""Measuring, while an autoencoder trains, how far the distribution of its reconstructions is from that of images."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pytorch_lightning as pl

from ldm.batch import Batch, tensor_field
from ldm.callback.gathering import gather_reference, measure_together
from ldm.callback.measuring import Measuring
from ldm.metric.base import Metric
from ldm.metric.reconstruction import ReconstructionDistance

if TYPE_CHECKING:
    from ldm.data.base import DataModule

log = logging.getLogger(__name__)


class ReconstructionEvaluation(Measuring):
    """Measures the reconstructions of all validation images at each validation, by all ranks together: rFID as `val/rfid`.

    The reconstructions are those of the task's validation, with averaged weights. Features are kept, not images: 4 D bytes an
    image, with D features, on the rank that reconstructs it, and of all images on rank 0.

    Args:
        metrics: Name -> metric; those that do not compare distributions of images are left out.
    """

    def __init__(self, metrics: Mapping[str, Metric]) -> None:
        self.distance = ReconstructionDistance(metrics.values())
        self.metrics = self.distance.metrics
        self._warned = False
        self._seen = 0

    @property
    def logged(self) -> Sequence[str]:
        """Return the names of the distances."""
        return [f"val/{name}" for name in self.distance.names]

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Warn once of too few validation images."""
        data: DataModule = trainer.datamodule  # type: ignore[attr-defined]
        if trainer.is_global_zero and not self._warned:
            for warning in self.distance.warnings(len(data.val_set)):
                log.warning(warning)
        self._warned = True

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start again, on the device of the model."""
        data: DataModule = trainer.datamodule  # type: ignore[attr-defined]
        self.distance.to(pl_module.device)
        self.distance.start(len(data.val_set))
        self._seen = 0

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
        images = tensor_field(batch.fields, "image")
        places = range(self._seen, self._seen + len(images))
        self._seen += len(images)
        numbers = [trainer.global_rank + place * trainer.world_size for place in places]
        self.distance.update(images, outputs, numbers)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log the distances."""
        distance = self.distance
        if distance.references is None:
            gathered = {name: gather_reference(trainer, one) for name, one in distance.builders.items()}
            distance.references = {name: one for name, one in gathered.items() if one is not None}
        for name, value in measure_together(trainer, distance.suite, distance.references).items():
            pl_module.log(f"val/r{name}", value, sync_dist=True)  # equal on all ranks already
