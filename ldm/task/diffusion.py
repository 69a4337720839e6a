"""Stage 2: the denoiser and its conditioner in the latent space of a finished autoencoder."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torch.optim import Optimizer

from ldm.backbone.base import Backbone
from ldm.batch import Batch
from ldm.checkpoint import CONFIG_KEY
from ldm.model import LatentDiffusion
from ldm.task.alignment import Alignment
from ldm.task.optimization import LearningRate


class DiffusionTask(pl.LightningModule):
    """One optimiser over denoiser and conditioner; the autoencoder is frozen.

    model          the latent diffusion model
    optimizer      pairs of name and parameter -> optimiser
    learning_rate  over time
    config         that builds `model`; goes into checkpoints
    gradient_clip  largest gradient norm
    alignment      a loss beside the denoising loss; None: none
    """

    scores = ("loss",)

    def __init__(
        self,
        model: LatentDiffusion,
        *,
        optimizer: Callable[[Iterable[tuple[str, nn.Parameter]]], Optimizer],
        learning_rate: LearningRate,
        config: dict[str, Any],
        gradient_clip: float = 1.0,
        alignment: Alignment | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.optimizer = optimizer
        self.learning_rate = learning_rate
        self.config = config
        self.gradient_clip = gradient_clip
        self.alignment = alignment
        if alignment is not None:
            backbone = model.denoiser.backbone
            assert isinstance(backbone, Backbone)
            alignment.watch(backbone.deepest)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        optimizer = self.optimizer((name, part) for name, part in self.named_parameters() if part.requires_grad)
        scheduler = self.learning_rate.schedule(optimizer, self.trainer.max_steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_fit_start(self) -> None:
        """Every rank takes the tokenizer of rank 0; then the latents are held where the data ask for it."""
        conditioner, data = self.model.conditioner, self.trainer.datamodule  # type: ignore[attr-defined]
        conditioner.set_extra_state(self.trainer.strategy.broadcast(conditioner.get_extra_state()))
        data.hold(self._moments, data.batch_size)

    @torch.no_grad()
    def _moments(self, image: Tensor) -> Tensor:
        return self.model.autoencoder.encode(image.to(self.device)).moments.cpu()

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        loss = self.model.loss(batch).mean()
        self.log("train/loss", loss.detach(), prog_bar=True, batch_size=len(batch.key))
        if self.alignment is None:
            return loss
        aligned = self.alignment(batch.image, self.global_step)
        self.log("train/alignment", aligned.detach(), batch_size=len(batch.key))
        return loss + aligned

    def configure_gradient_clipping(self, optimizer: Optimizer, *_: Any, **__: Any) -> None:
        """Clip here: Lightning refuses to under autocast with a fused optimiser, for the sake of fp16's loss scaling."""
        norm = nn.utils.clip_grad_norm_(self.parameters(), self.gradient_clip)
        self.log("train/gradient_norm", norm)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        loss = self.model.loss(batch).mean()
        self.log("val/loss", loss, on_epoch=True, prog_bar=True, sync_dist=True, batch_size=len(batch.key))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint[CONFIG_KEY] = self.config
