"""Stage 2: the denoiser and its conditioner in the latent space of a finished autoencoder."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from ldm.backbone.base import Backbone
from ldm.batch import Batch
from ldm.conditioner.base import Conditioner
from ldm.evaluate.validation_loss import SCORES, ValidationLoss
from ldm.model import LatentDiffusion
from ldm.optim.lora import LoRA
from ldm.optim.optimization import Trained
from ldm.optim.scheduler import SchedulerFactory
from ldm.pretrained.precision import FULL
from ldm.task.alignment import REPA
from ldm.task.latent import LatentTask


class DiffusionTask(LatentTask[LatentDiffusion]):
    """Trains denoiser and conditioner by the loss of the model, and validates them by `ValidationLoss`, whatever that loss is.

    Args:
        model: The latent diffusion model.
        optimizer: Makes the optimizer of what is trained.
        scheduler: Makes the learning-rate scheduler of the optimizer.
        config: The config that builds `model`; it goes into checkpoints.
        gradient_clip_val: Largest gradient norm; None: gradients are not clipped.
        encode_precision: Precision in which the autoencoder encodes training images.
        alignment: Makes a loss beside that of the model for its backbone; None: none.
        adapter: Adds to the backbone what is trained in place of the model's weights; None: they are trained.
    """

    metrics = SCORES

    def __init__(
        self,
        model: LatentDiffusion,
        *,
        optimizer: Callable[[Trained], Optimizer],
        scheduler: SchedulerFactory,
        config: dict[str, Any],
        gradient_clip_val: float | None = 1.0,
        encode_precision: str = FULL,
        alignment: Callable[[Backbone], REPA] | None = None,
        adapter: LoRA | None = None,
    ) -> None:
        super().__init__(
            model,
            optimizer=optimizer,
            scheduler=scheduler,
            config=config,
            gradient_clip_val=gradient_clip_val,
            encode_precision=encode_precision,
        )
        self.adapter = adapter
        self.validation_loss = ValidationLoss()
        self.alignment: REPA | None = None
        if alignment is not None:
            backbone = model.denoiser.backbone
            assert isinstance(backbone, Backbone)
            self.alignment = alignment(backbone)

    @property
    def reader(self) -> Conditioner:
        """The conditioner."""
        return self.model.conditioner

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the fields that conditioner, loss and alignment read beside images or latents."""
        aligned = self.alignment.inputs if self.alignment is not None else ()
        return (*self.reader.inputs, *self.model.denoising_loss.inputs, *aligned)

    @property
    def keeps_init(self) -> bool:
        """True with an adapter, beside which all is frozen."""
        return self.adapter is not None

    def adapt(self) -> None:
        """Add the adapter, and freeze all else."""
        if self.adapter is not None:
            self.model.requires_grad_(False)
            self.adapter.adapt(self.model.denoiser.backbone)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss of a batch, a scalar, with that of the alignment."""
        loss = self.training_loss(batch)
        if self.alignment is None:
            return loss
        aligned: Tensor = self.alignment(batch.fields, self.global_step)
        self.log("train/alignment", aligned.detach(), batch_size=len(batch.key))
        return loss + aligned

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Measure the validation images."""
        self.validation_loss.measure(self.model, batch)

    def on_validation_epoch_end(self) -> None:
        """Log the scores over all images, on all ranks."""
        for name, value in self.validation_loss.scores().items():
            self.log(f"val/{name}", value.float(), prog_bar=name == "loss", sync_dist=True)
