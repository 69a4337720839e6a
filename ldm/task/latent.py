"""The common base of tasks in the latent space of a finished autoencoder."""

from __future__ import annotations

import logging
from abc import abstractmethod
from typing import Any, Generic, TypeVar

import torch
from pytorch_lightning.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor
from torch.optim import Optimizer

from ldm.batch import Batch, tensor_field
from ldm.classifier.base import NoisyClassifier
from ldm.conditioner.base import Reader, learned_state, set_learned_state
from ldm.encode.precision import compare_precision
from ldm.model import LatentDiffusion
from ldm.optim.divergence import GRADIENT, LOSS
from ldm.optim.optimization import Trained, clip_gradients
from ldm.optim.scheduler import attach
from ldm.pretrained.precision import FULL, encoding_in
from ldm.task.base import Task

log = logging.getLogger(__name__)

COMPARED_IMAGES = 32
"""The number of images whose latents are compared in two precisions."""

Model = TypeVar("Model", LatentDiffusion, NoisyClassifier)


class LatentTask(Task, Generic[Model]):
    """A task with one optimizer over all that is not frozen; the autoencoder is frozen.

    Args:
        model: The trained model, with the autoencoder.
        encode_precision: Precision in which the autoencoder encodes training images; one of `PRECISIONS`. Validation
            encodes in fp32.
        **options: Those of Task.
    """

    model: Model

    def __init__(self, model: Model, *, encode_precision: str = FULL, **options: Any) -> None:
        super().__init__(model, **options)
        self.encode_precision = encode_precision
        self._is_compared = encode_precision == FULL

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
        """Share the state that rank 0 has learned with all ranks; then hold the latents in memory if the data ask for it."""
        reader, data = self.reader, self.trainer.datamodule  # type: ignore[attr-defined]
        set_learned_state(reader, self.trainer.strategy.broadcast(learned_state(reader)))
        data.cache_latents(self._moments, data.batch_size)

    @torch.no_grad()
    def _moments(self, image: Tensor) -> Tensor:
        return self.model.autoencoder.encode(image.to(self.device)).moments.cpu()

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Compare the latents of the first images with those in fp32, where they are encoded in another precision.

        Raises:
            ValueError: If they differ too much.
        """
        if self._is_compared or "moments" in batch.fields:
            return
        self._is_compared = True
        fault = None
        if self.trainer.is_global_zero:
            images = tensor_field(batch.fields, "image")[:COMPARED_IMAGES]
            with torch.compiler.set_stance("force_eager"):  # no network is compiled for so many images
                found = compare_precision(self.model.autoencoder, [images], self.encode_precision)
            try:
                found.check("encode_precision")
            except ValueError as error:
                fault = str(error)
            log.info(
                f"encodes images in {self.encode_precision}: the latents of {found.images} differ from those in {FULL} by "
                f"{float(found.error.max()):.2g} of their deviation, or less"
            )
        if (fault := self.trainer.strategy.broadcast(fault)) is not None:
            raise ValueError(fault)

    def training_loss(self, batch: Batch) -> Tensor:
        """Return the mean loss over a batch, a scalar, and log it as train/loss."""
        with encoding_in(self.encode_precision):
            loss = self.model.loss(batch).mean()
        self.watch.see(self.global_step, LOSS, loss)
        self.log("train/loss", loss.detach(), prog_bar=True, batch_size=len(batch.key))
        return loss

    def configure_gradient_clipping(self, optimizer: Optimizer, *_: Any, **__: Any) -> None:
        """Clip here, since Lightning refuses to under autocast with a fused optimizer, for the sake of fp16's loss scaling."""
        norm = clip_gradients(self.parameters(), self.gradient_clip_val)
        self.watch.see(self.global_step, GRADIENT, norm)
        self.log("train/gradient_norm", norm)
