"""Stage 1: the autoencoder against its discriminator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.optim import Optimizer
from torchmetrics import MeanMetric

from ldm.autoencoder.base import Autoencoder
from ldm.autoencoder.equivariance import Equivariance
from ldm.autoencoder.loss import AutoencoderLoss
from ldm.autoencoder.regularizer import Encoding
from ldm.batch import Batch, tensor_field
from ldm.metric.similarity import peak_signal_noise_ratio, structural_similarity
from ldm.metric.totals import Totals
from ldm.optim.divergence import DISCRIMINATOR_GRADIENT, DISCRIMINATOR_LOSS, GRADIENT, LOSS
from ldm.optim.optimization import Trained, clip_gradients
from ldm.optim.scheduler import SchedulerFactory, attach
from ldm.pretrained.precision import full_precision
from ldm.task.base import Task
from ldm.task.latent_alignment import VFLoss


class Reconstructed(NamedTuple):
    """A batch of images in training, and what became of them.

    Attributes:
        encoding: The encoding of the images.
        raw: Their raw latents, `(B, C, h, w)`.
        shown: The images that are to be reconstructed, `(B, 3, H, W)`: themselves, or what was done to them and their latents.
        image: Their reconstructions, `(B, 3, H, W)`.
    """

    encoding: Encoding
    raw: Tensor
    shown: Tensor
    image: Tensor


class AutoencoderTask(Task):
    """Two optimizers, stepped by hand: the autoencoder's, then from `loss.start_step` on the discriminator's.

    Args:
        model: The autoencoder.
        loss: Its loss, with the discriminator.
        optimizer: Makes the optimizer of what is trained, for each of the two.
        scheduler: Makes the learning-rate scheduler of an optimizer, for each of the two.
        config: The config that builds `model`; it goes into checkpoints.
        accumulate: Batches an optimiser step.
        gradient_clip_val: Largest gradient norm, of each of the two; None: gradients are not clipped.
        freeze_encoder: Train the decoder alone: latents stay what they are, and with them every model trained on them. So
            does the regulariser, as the codes of a codebook.
        equivariance: Changes images and latents alike before they are decoded; None: nothing does.
        latent_alignment: Makes a loss of raw latents beside, of their number of channels; None: none.
    """

    model: Autoencoder

    def __init__(
        self,
        model: Autoencoder,
        loss: AutoencoderLoss,
        *,
        optimizer: Callable[[Trained], Optimizer],
        scheduler: SchedulerFactory,
        config: dict[str, Any],
        accumulate: int = 1,
        gradient_clip_val: float | None = 1.0,
        freeze_encoder: bool = False,
        equivariance: Equivariance | None = None,
        latent_alignment: Callable[[int], VFLoss] | None = None,
    ) -> None:
        super().__init__(
            model, optimizer=optimizer, scheduler=scheduler, config=config, gradient_clip_val=gradient_clip_val
        )
        self.automatic_optimization = False
        self.loss = loss
        self.accumulate = accumulate
        self.equivariance = equivariance
        if freeze_encoder:
            for part in (*model.encoding_parts(), model.regularizer):
                part.requires_grad_(False)
        lpips = () if loss.perceptual is None else ("lpips",)
        self.metrics = ("psnr", "ssim", *lpips, *model.regularizer.metrics)
        self.totals = Totals(model.regularizer.num_sums)
        self.psnr = MeanMetric(nan_strategy="disable")
        self.ssim = MeanMetric(nan_strategy="disable")
        if loss.perceptual is not None:
            loss.perceptual.requires_grad_(False)
        self.latent_alignment = None if latent_alignment is None else latent_alignment(model.latent_channels)

    @property
    def inputs(self) -> tuple[str, ...]:
        """Return no names: images are all that is needed."""
        return ()

    def configure_optimizers(self) -> tuple[list[Optimizer], list[Any]]:
        """Return the optimizers of autoencoder and discriminator, and a scheduler of each."""
        steps = self.trainer.max_steps
        optimizers = [self.optimizer(Trained(self._autoencoder_parts()))]
        if self.loss.discriminator is not None:
            optimizers.append(self.optimizer(Trained(self.loss.discriminator)))
        return optimizers, [attach(self.scheduler, optimizer, steps) for optimizer in optimizers]

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """Add the gradients of a batch; step at the last of those that are accumulated."""
        image = tensor_field(batch.fields, "image")
        step_now = (self.trainer.fit_loop.total_batch_idx + 1) % self.accumulate == 0
        step = self.global_step
        shown, reconstruction = self._autoencoder_step(image, step, step_now)
        if self.loss.adversarial(step):
            self._discriminator_step(shown, reconstruction, step, step_now)
        if step_now:
            for scheduler in self._schedulers():
                scheduler.step()

    def reconstruct(self, image: Tensor) -> Reconstructed:
        """Return the reconstructions of images `(B, 3, H, W)` in [-1, 1]."""
        encoding = self.model.encode(image)
        raw = encoding.sample()
        changed = self.equivariance.instead(image, raw) if self.equivariance is not None else None
        if changed is None:
            return Reconstructed(encoding, raw, image, self.model.decode(raw, encoding))
        return Reconstructed(encoding, raw, changed.image, self.model.decode(changed.raw))

    def _autoencoder_step(self, image: Tensor, step: int, step_now: bool) -> tuple[Tensor, Tensor]:
        """Return the images that were to be reconstructed, and what they became."""
        if self.loss.discriminator is not None:
            self.loss.discriminator.requires_grad_(False)
        regularizer = self.model.regularizer
        encoding, raw, shown, reconstruction = self.reconstruct(image)
        penalty = regularizer.penalty(encoding, image[0].numel())
        parts = self.loss.autoencoder(
            shown, reconstruction, penalty.loss, last_layer=self.model.last_layer(), step=step
        )
        more = self.more_losses(image, raw, parts.reconstruction)
        total = parts.total + sum(more.values())
        self.watch.see(step, LOSS, total)
        self.manual_backward(total / self.accumulate)
        if step_now:
            optimizer = self._optimizers()[0]
            norm = clip_gradients(self._autoencoder_parts().parameters(), self.gradient_clip_val)
            self.watch.see(step, GRADIENT, norm)
            self.log("train/gradient_norm", norm)
            optimizer.step()
            optimizer.zero_grad()
        regularizer.after_batch(encoding, stepped=step_now)
        logged = {**parts._asdict(), "total": total, **more, **penalty.means, **regularizer.metrics_of(penalty.sums)}
        self.log_dict({f"train/{name}": value.detach() for name, value in logged.items()})
        self.log("train/loss", total.detach(), prog_bar=True, logger=False)
        return shown, reconstruction

    def more_losses(self, image: Tensor, raw: Tensor, reconstruction: Tensor) -> dict[str, Tensor]:
        """Return name -> loss, with its weight, of what is trained beside images.

        Args:
            image: Images `(B, 3, H, W)` in [-1, 1].
            raw: Their raw latents, `(B, C, h, w)`.
            reconstruction: The reconstruction loss of the batch, a scalar.
        """
        losses = {}
        if self.equivariance is not None and (view := self.equivariance.beside(image, raw)) is not None:
            compared = self.loss.reconstruction(view.image, self.model.decode(view.raw))
            losses["equivariance"] = self.equivariance.weight * compared
        if self.latent_alignment is not None:
            losses["latent_alignment"] = self.latent_alignment(
                raw, image, reconstruction=reconstruction, last_layer=self.model.last_encoding_layer()
            )
        return losses

    def _autoencoder_parts(self) -> nn.Module:
        """Return the modules that the first optimizer trains: the model, and modules that are thrown away after training."""
        return self.model if self.latent_alignment is None else nn.ModuleList([self.model, self.latent_alignment])

    def _discriminator_step(self, image: Tensor, reconstruction: Tensor, step: int, step_now: bool) -> None:
        assert self.loss.discriminator is not None
        self.loss.discriminator.requires_grad_(True)
        loss = self.loss.discriminator_loss(image, reconstruction)
        self.watch.see(step, DISCRIMINATOR_LOSS, loss)
        self.manual_backward(loss / self.accumulate)
        if step_now:
            # The bare optimiser: a step of Lightning's wrapper would be counted, and `global_step` run twice as fast.
            optimizer = self._optimizers()[1].optimizer
            norm = clip_gradients(self.loss.discriminator.parameters(), self.gradient_clip_val)
            self.watch.see(step, DISCRIMINATOR_GRADIENT, norm)
            self.log("train/discriminator_gradient_norm", norm)
            optimizer.step()
            optimizer.zero_grad()
        self.log("train/discriminator", loss.detach())

    def validation_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Log how well images are reconstructed.

        Returns:
            The reconstructions of the batch, `(B, 3, H, W)` in [-1, 1].
        """
        image = tensor_field(batch.fields, "image")
        encoding = self.model.encode(image)
        reconstruction = self.model.decode(encoding.mean, encoding).float().clamp(-1, 1)
        with full_precision(image.device):
            self.psnr.update(peak_signal_noise_ratio(reconstruction, image).float().to(image.device))
            self.ssim.update(structural_similarity(reconstruction, image).float().to(image.device))
            penalty = self.model.regularizer.penalty(encoding, image[0].numel())
            if self.loss.perceptual is not None:
                distance = self.loss.perceptual(image, reconstruction).mean()
                self.log("val/lpips", distance, on_epoch=True, sync_dist=True, batch_size=len(image))
        self.log("val/psnr", self.psnr, on_epoch=True, prog_bar=True, batch_size=len(image))
        self.log("val/ssim", self.ssim, on_epoch=True, batch_size=len(image))
        for name, value in penalty.means.items():
            self.log(f"val/{name}", value, on_epoch=True, sync_dist=True, batch_size=len(image))
        if self.model.regularizer.num_sums:
            self.totals.update(penalty.sums)
        return reconstruction

    def on_validation_epoch_end(self) -> None:
        """Log the scores that are made of sums over the whole validation, on all ranks."""
        if self.model.regularizer.num_sums:
            for name, value in self.model.regularizer.metrics_of(self.totals.compute()).items():
                self.log(f"val/{name}", value, sync_dist=True)
            self.totals.reset()

    def _optimizers(self) -> list[Any]:
        optimizers = self.optimizers()
        return optimizers if isinstance(optimizers, list) else [optimizers]

    def _schedulers(self) -> list[Any]:
        schedulers = self.lr_schedulers()
        return schedulers if isinstance(schedulers, list) else [schedulers]
