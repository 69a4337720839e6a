"""A complete latent diffusion model: captions in, images out. Knows neither Lightning nor Hydra."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from ldm.autoencoder.base import Autoencoder, Posterior
from ldm.backbone.base import Backbone
from ldm.batch import Batch
from ldm.conditioner.base import Conditioner
from ldm.diffusion.denoiser import Denoiser
from ldm.diffusion.loss import DenoisingLoss
from ldm.sampler.base import Sampler
from ldm.sampler.guidance import Guidance
from ldm.sampler.noise import Noise


class LatentDiffusion(nn.Module):
    """Autoencoder (frozen), conditioner, denoiser; how they are trained and how they are sampled by default.

    side             of the images that it was trained on
    caption_dropout  share of captions replaced by "" in training, for classifier-free guidance

    Paper: Rombach et al., 2022, arXiv:2112.10752; Ho & Salimans, 2022, arXiv:2207.12598.
    """

    def __init__(
        self,
        autoencoder: Autoencoder,
        conditioner: Conditioner,
        denoiser: Denoiser,
        *,
        loss: DenoisingLoss,
        sampler: Sampler,
        guidance: Guidance,
        side: int,
        caption_dropout: float = 0.1,
    ) -> None:
        super().__init__()
        if not 0 <= caption_dropout <= 1:
            raise ValueError(f"caption_dropout is a share in [0, 1]; got {caption_dropout}")
        self.autoencoder = autoencoder.requires_grad_(False)
        self.conditioner = conditioner
        self.denoiser = denoiser
        self.denoising_loss = loss
        self.sampler = sampler
        self.guidance = guidance
        self.side = side
        self.caption_dropout = caption_dropout
        self.check_side(side)

    def train(self, mode: bool = True) -> LatentDiffusion:
        """The frozen autoencoder stays in evaluation mode."""
        super().train(mode)
        self.autoencoder.eval()
        return self

    def check_side(self, side: int) -> None:
        """Raise ValueError where autoencoder or backbone can not divide an image side."""
        self.autoencoder.check_side(side)
        backbone = self.denoiser.backbone
        assert isinstance(backbone, Backbone)
        step = self.autoencoder.factor * backbone.factor
        if side % step:
            raise ValueError(
                f"image side {side} gives latents of side {side // self.autoencoder.factor}, which the backbone cannot "
                f"halve down to its last level; use a multiple of {step}"
            )

    def loss(self, batch: Batch) -> Tensor:
        """Loss of each image, `(B,)`. Draws posterior, dropout, times and noise from torch's generator."""
        x = self.latent(batch)
        dropped = torch.rand(len(batch.caption)) < self.caption_dropout
        if batch.text is not None:
            condition = batch.text.where(dropped.to(x.device), self.conditioner([""]))
        else:
            captions = ["" if drop else caption for caption, drop in zip(batch.caption, dropped.tolist(), strict=True)]
            condition = self.conditioner(captions)
        return self.denoising_loss(self.denoiser, x, condition)

    @torch.no_grad()
    def latent(self, batch: Batch) -> Tensor:
        """Latents `(B, C, h, w)` drawn from the posterior of the batch's images or cached moments."""
        if batch.moments is not None:
            posterior = Posterior(batch.moments)
        elif batch.image is not None:
            with torch.autocast(batch.image.device.type, enabled=False):  # the latents that would be cached
                posterior = self.autoencoder.encode(batch.image)
        else:
            raise ValueError("a batch needs images or moments; it has neither")
        return self.autoencoder.to_latent(posterior.sample())

    @torch.no_grad()
    def sample(
        self,
        prompts: Sequence[str],
        *,
        seeds: Sequence[int] | None = None,
        sampler: Sampler | None = None,
        guidance: Guidance | None = None,
        side: int | None = None,
        batch_size: int = 16,
        progress: Callable[[int], object] | None = None,
    ) -> Tensor:
        """Images `(len(prompts), 3, side, side)` in [-1, 1], on the CPU.

        Image i depends on prompts[i] and seeds[i] alone, not on the batch that it is made in.

        seeds       one an image; None: 0, 1, 2, ...
        sampler     None: the model's own; so for guidance and side
        batch_size  images at once; changes speed only
        progress    called with the number of images after each batch
        """
        seeds = list(range(len(prompts))) if seeds is None else list(seeds)
        if len(seeds) != len(prompts):
            raise ValueError(f"one seed a prompt is needed; got {len(prompts)} prompts and {len(seeds)} seeds")
        side = side or self.side
        self.check_side(side)
        images = [torch.empty(0, 3, side, side)]
        for start in range(0, len(prompts), batch_size):
            chunk = slice(start, start + batch_size)
            images.append(self._sample_batch(prompts[chunk], seeds[chunk], sampler, guidance, side))
            if progress is not None:
                progress(images[-1].shape[0])
        return torch.cat(images)

    def _sample_batch(
        self, prompts: Sequence[str], seeds: list[int], sampler: Sampler | None, guidance: Guidance | None, side: int
    ) -> Tensor:
        device = self.autoencoder.shift.device
        denoise = (guidance or self.guidance).wrap(
            self.denoiser, self.conditioner(prompts), self.conditioner([""] * len(prompts))
        )
        latent_side = side // self.autoencoder.factor
        shape = (self.autoencoder.latent_channels, latent_side, latent_side)
        latent = (sampler or self.sampler).sample(denoise, self.denoiser.schedule, Noise(seeds), shape, device)
        return self.autoencoder.decode(self.autoencoder.to_raw(latent)).float().clamp(-1, 1).cpu()
