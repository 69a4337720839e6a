"""Stage 1: the autoencoder against its discriminator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor
from torch.optim import Optimizer
from torchmetrics.image import PeakSignalNoiseRatio, StructuralSimilarityIndexMeasure

from ldm.autoencoder.base import Autoencoder, latent_moments
from ldm.autoencoder.loss import AutoencoderLoss
from ldm.batch import Batch, tensor_field
from ldm.checkpoint import CONFIG_KEY
from ldm.divergence import GRADIENT, JUDGEMENT, JUDGES_GRADIENT, LOSS, Watch
from ldm.frozen import FrozenParts
from ldm.task.optimization import LearningRate, Trained, clip_gradients


class AutoencoderTask(pl.LightningModule):
    """Two optimisers, stepped by hand: the autoencoder's, then from `loss.start_step` on the discriminator's.

    model               the autoencoder
    loss                its loss, with the discriminator
    optimizer           what is trained -> optimiser, for each of the two
    learning_rate       over time, for both
    config              that builds `model`; goes into checkpoints
    accumulate          batches an optimiser step
    gradient_clip       largest gradient norm, of each of the two; None: gradients are not clipped
    statistics_batches  batches, evenly spread over the training set, from which shift and scale of the raw latents are
                        estimated at the end; None: all
    freeze_encoder      train the decoder alone: latents stay what they are, and with them every model trained on them
    """

    scores = ("psnr", "ssim", "kl")
    inputs: tuple[str, ...] = ()
    """Names of the fields that are needed beside images."""

    def __init__(
        self,
        model: Autoencoder,
        loss: AutoencoderLoss,
        *,
        optimizer: Callable[[Trained], Optimizer],
        learning_rate: LearningRate,
        config: dict[str, Any],
        accumulate: int = 1,
        gradient_clip: float | None = 1.0,
        statistics_batches: int | None = None,
        freeze_encoder: bool = False,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.model = model
        self.loss = loss
        self.optimizer = optimizer
        self.learning_rate = learning_rate
        self.config = config
        self.accumulate = accumulate
        self.gradient_clip = gradient_clip
        self.watch = Watch()
        self.frozen: FrozenParts | None = None
        self.statistics_batches = statistics_batches
        self.freeze_encoder = freeze_encoder
        if freeze_encoder:
            for part in model.encoding_parts():
                part.requires_grad_(False)
        self.psnr = PeakSignalNoiseRatio(data_range=2.0, dim=(1, 2, 3), reduction="elementwise_mean")
        self.ssim = StructuralSimilarityIndexMeasure(data_range=2.0)
        if loss.perceptual is not None:
            loss.perceptual.requires_grad_(False)

    def configure_optimizers(self) -> tuple[list[Optimizer], list[Any]]:
        steps = self.trainer.max_steps
        optimizers = [self.optimizer(Trained(self.model))]
        if self.loss.discriminator is not None:
            optimizers.append(self.optimizer(Trained(self.loss.discriminator)))
        return optimizers, [self.learning_rate.schedule(optimizer, steps) for optimizer in optimizers]

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        image = tensor_field(batch.fields, "image")
        step_now = (self.trainer.fit_loop.epoch_loop.total_batch_idx + 1) % self.accumulate == 0
        step = self.global_step
        reconstruction = self._autoencoder_step(image, step, step_now)
        if self.loss.adversarial(step):
            self._discriminator_step(image, reconstruction, step, step_now)
        if step_now:
            for scheduler in self._schedulers():
                scheduler.step()

    def _autoencoder_step(self, image: Tensor, step: int, step_now: bool) -> Tensor:
        if self.loss.discriminator is not None:
            self.loss.discriminator.requires_grad_(False)
        posterior = self.model.encode(image)
        reconstruction = self.model.decode(posterior.sample())
        parts = self.loss.autoencoder(image, reconstruction, posterior, last_layer=self.model.last_layer(), step=step)
        self.watch.see(step, LOSS, parts.total)
        self.manual_backward(parts.total / self.accumulate)
        if step_now:
            optimizer = self._optimizers()[0]
            norm = clip_gradients(self.model.parameters(), self.gradient_clip)
            self.watch.see(step, GRADIENT, norm)
            self.log("train/gradient_norm", norm)
            optimizer.step()
            optimizer.zero_grad()
        self.log_dict({f"train/{name}": value.detach() for name, value in parts._asdict().items()})
        self.log("train/loss", parts.total.detach(), prog_bar=True, logger=False)
        return reconstruction

    def _discriminator_step(self, image: Tensor, reconstruction: Tensor, step: int, step_now: bool) -> None:
        assert self.loss.discriminator is not None
        self.loss.discriminator.requires_grad_(True)
        loss = self.loss.judge(image, reconstruction)
        self.watch.see(step, JUDGEMENT, loss)
        self.manual_backward(loss / self.accumulate)
        if step_now:
            # The bare optimiser: a step of Lightning's wrapper would be counted, and `global_step` run twice as fast.
            optimizer = self._optimizers()[1].optimizer
            norm = clip_gradients(self.loss.discriminator.parameters(), self.gradient_clip)
            self.watch.see(step, JUDGES_GRADIENT, norm)
            optimizer.step()
            optimizer.zero_grad()
        self.log("train/discriminator", loss.detach())

    def validation_step(self, batch: Batch, batch_idx: int) -> Tensor:
        image = tensor_field(batch.fields, "image")
        posterior = self.model.encode(image)
        reconstruction = self.model.decode(posterior.mean).float().clamp(-1, 1)
        with torch.autocast(image.device.type, enabled=False):  # in bf16 the SSIM is off by 0.01 and more
            self.psnr.update(reconstruction, image.float())
            self.ssim.update(reconstruction, image.float())
            kl = posterior.kl().mean()
        self.log("val/psnr", self.psnr, on_epoch=True, prog_bar=True, batch_size=len(image))
        self.log("val/ssim", self.ssim, on_epoch=True, batch_size=len(image))
        self.log("val/kl", kl, on_epoch=True, sync_dist=True, batch_size=len(image))
        return reconstruction

    def on_validation_start(self) -> None:
        """Before the validation that ends a stage: estimate shift and scale of the raw latents, over all ranks.

        Not where they are known: with a frozen encoder, or when a finished model is evaluated alone.
        """
        if self.trainer.state.fn != TrainerFn.VALIDATING or int(self.model.statistics_count):
            return
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        rank, world = self.trainer.global_rank, self.trainer.world_size
        limit = None if self.statistics_batches is None else self.statistics_batches * data.batch_size * world
        batches = data.training_pass(data.batch_size, rank=rank, world=world, limit=limit)
        moments = latent_moments(self.model, (tensor_field(batch.fields, "image") for batch in batches))
        moments.totals = self.trainer.strategy.reduce(moments.totals, reduce_op="sum")
        moments.store(self.model)

    def setup(self, stage: str) -> None:
        self.frozen = self.frozen or FrozenParts(self)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint[CONFIG_KEY] = self.config
        if self.frozen is not None and self.trainer.is_global_zero:  # which alone writes it
            self.frozen.leave_out(checkpoint)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if self.frozen is not None:
            self.frozen.fill_in(checkpoint)

    def _optimizers(self) -> list[Any]:
        optimizers = self.optimizers()
        return optimizers if isinstance(optimizers, list) else [optimizers]

    def _schedulers(self) -> list[Any]:
        schedulers = self.lr_schedulers()
        return schedulers if isinstance(schedulers, list) else [schedulers]
