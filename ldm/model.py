"""A complete latent diffusion model: captions in, images out. Knows neither Lightning nor Hydra."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ldm.autoencoder.base import Autoencoder
from ldm.backbone.base import Backbone
from ldm.batch import Batch, Fields, Size, as_size, whole_geometry
from ldm.conditioner.base import Conditioner
from ldm.diffusion.denoiser import Denoiser
from ldm.diffusion.loss import DenoisingLoss
from ldm.options import COUNT, check
from ldm.sampler.base import Sampler, Way
from ldm.sampler.finite import check_finite, check_latents, check_weights
from ldm.sampler.given import Given, Toward, read
from ldm.sampler.guidance import Guidance, Unguided
from ldm.sampler.inpainting import hold_known, soft_mask, without_masked
from ldm.sampler.inversion import invert
from ldm.sampler.noise import Noise, as_seeds
from ldm.text import clean_prompts


class Source(NamedTuple):
    """Images to begin with.

    image     `(N, 3, H, W)` in [-1, 1], one for each prompt; a single one is for all
    strength  share of the sampler's steps that are made from it, in [0, 1]
    mask      1 where something new shall be, 0 where the image stays, `(N, 1, H, W)`; None: all may change
    border    pixels around the mask over which new and old are blended; beyond, the image stays as it is
    visits    of each step; see Way
    prompts   what the images show, `(N,)`, or one text for all; then they become noise by inverting DDIM, not by drawing it,
              and keep what the new prompts do not change, best without guidance. None: noise is drawn
    """

    image: Tensor
    strength: float = 1.0
    mask: Tensor | None = None
    border: int = 4
    visits: int = 1
    prompts: str | Sequence[str] | None = None

    def each(self, count: int) -> Source:
        """Return this source with one image, mask and clean prompt for each of `count` images.

        Raises:
            ValueError: Where there are neither one nor `count` of them, or an image is not finite.
        """
        image, mask, prompts = self.image, self.mask, self.prompts
        if image.ndim != 4 or len(image) not in (1, count) or (mask is not None and len(mask) not in (1, count)):
            raise ValueError(
                f"images to begin with are (N, 3, H, W), one for each of {count} prompts; got {image.shape}"
            )
        if not image.isfinite().all():
            raise ValueError("images to begin with are numbers in [-1, 1]; got some that are not finite")
        if prompts is not None:
            shown = clean_prompts(prompts) * (count if isinstance(prompts, str) else 1)
            if len(shown) != count:
                raise ValueError(f"one text for each of {count} images to begin with is needed; got {len(shown)}")
            prompts = shown
        image = image.expand(count, -1, -1, -1)
        return self._replace(
            image=image, mask=None if mask is None else mask.expand(count, -1, -1, -1), prompts=prompts
        )

    def rows(self, chunk: slice) -> Source:
        """Those of some images."""
        return self._replace(
            image=self.image[chunk],
            mask=None if self.mask is None else self.mask[chunk],
            prompts=None if self.prompts is None else self.prompts[chunk],
        )


class LatentDiffusion(nn.Module):
    """A frozen autoencoder, a conditioner and a denoiser; how they are trained and how they are sampled by default.

    Args:
        autoencoder: Finished; it is not trained any more.
        conditioner: Turns the fields of a batch into the condition of the denoiser.
        denoiser: Estimates the clean latent.
        loss: Loss of a batch of latents, which trains the denoiser and the conditioner.
        sampler: The way from noise to a latent, unless another is given.
        guidance: Leads the sampler, unless another is given.
        size: Size of the images that it is trained on, in pixels: one number, or height and width.

    References:
        Rombach et al., 2022, arXiv:2112.10752; Ho & Salimans, 2022, arXiv:2207.12598.
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
        size: int | Sequence[int],
    ) -> None:
        super().__init__()
        self.autoencoder = autoencoder.requires_grad_(False)
        self.conditioner = conditioner
        self.denoiser = denoiser
        self.denoising_loss = loss
        self.sampler = sampler
        self.guidance = guidance
        self.size = as_size(size)
        self.check_size(size)
        self._check_channels()
        self._check_weighting()

    def train(self, mode: bool = True) -> LatentDiffusion:
        """The frozen autoencoder stays in evaluation mode."""
        super().train(mode)
        self.autoencoder.eval()
        return self

    def check_size(self, size: int | Sequence[int]) -> None:
        """Raise ValueError where autoencoder or backbone cannot divide an image size."""
        backbone = self.denoiser.backbone
        assert isinstance(backbone, Backbone)
        self.autoencoder.check_size(size, multiple=backbone.factor)

    def loss(self, batch: Batch) -> Tensor:
        """Return the loss of each image, `(B,)`.

        It draws, from torch's generator and in this order: posterior, drop-out of conditions, times, noise.
        """
        x = self.autoencoder.latent(batch)
        condition = self.conditioner.with_dropout(batch.fields)
        return self.denoising_loss(self.denoiser, x, condition)

    @torch.no_grad()
    def sample(
        self,
        prompts: str | Sequence[str],
        *,
        seeds: int | Sequence[int] | None = None,
        negative: str | Sequence[str] = "",
        toward: Toward | None = None,
        source: Source | None = None,
        sampler: Sampler | None = None,
        guidance: Guidance | None = None,
        size: int | Sequence[int] | None = None,
        batch_size: int = 16,
        progress: Callable[[int], object] | None = None,
    ) -> Tensor:
        """Images `(len(prompts), 3, H, W)` in [-1, 1], on the CPU.

        Image i depends on prompts[i] and seeds[i] alone (and their likes in the other options), not on the batch that it
        is made in. On a CPU that holds up to the rounding of fp32, and the same call gives the same bits again. On a GPU
        neither is promised: other kernels are chosen for other batch sizes, and some add in an order that changes from
        call to call, so that images differ by rounding, and by more where many steps or low precision let it grow. TF32,
        which `sample.py` turns off (torch.backends.cudnn.allow_tf32), adds to it; with
        torch.use_deterministic_algorithms(True) the same call gives the same bits there, too.

        prompts     one text an image; a str is one prompt. White space around each is taken off, as of captions in training
        seeds       one an image, whole numbers; a single number: that one, the next, ...; None: 0, 1, 2, ...
        negative    what guidance leads away from, for all or one an image; "": from the mean of all images
        toward      prompts and seeds at the other end of an interpolation; None: none
        source      images to begin with; None: noise alone
        sampler     None: the model's own; so for guidance and size, (height, width)
        batch_size  images at once; changes speed only
        progress    called with the number of images after each batch

        Raises ValueError where options do not fit together, or an image is not finite.
        """
        check("batch_size", batch_size, COUNT)
        prompts = clean_prompts(prompts)
        seeds = as_seeds(seeds, len(prompts))
        negatives = clean_prompts(negative) * (len(prompts) if isinstance(negative, str) else 1)
        if len(negatives) != len(prompts):
            raise ValueError(f"negative is one text, or one a prompt; got {len(negatives)} for {len(prompts)} prompts")
        toward = None if toward is None else toward.each(len(prompts))
        source = None if source is None else source.each(len(prompts))
        sampler, guidance = sampler or self.sampler, guidance or self.guidance
        if source is not None and source.prompts is not None and sampler.draws:
            raise ValueError(
                f"what init_prompt describes is made of its own noise, to which {type(sampler).__name__} would add other; "
                "choose a sampler that adds none, like sampler=ddim"
            )
        size = as_size(size) if size is not None else self.size if source is None else Size(*source.image.shape[2:])
        self.check_size(size)
        images = [torch.empty(0, 3, *size)]
        for start in range(0, len(prompts), batch_size):
            chunk = slice(start, start + batch_size)
            noise, end = Noise(seeds[chunk]), None
            if toward is not None:
                end = toward.rows(chunk)
                noise = noise.toward(end.seeds, end.shares)
            fields: Fields = {"caption": prompts[chunk], "geometry": whole_geometry(size, len(prompts[chunk]))}
            given = Given(
                self.denoiser,
                read(self.conditioner, fields, end),
                self.conditioner({**fields, "caption": negatives[chunk]}),
                prompts[chunk],
                self.autoencoder,
                end,
            )
            rows = None if source is None else source.rows(chunk)
            images.append(self._sample_batch(given, noise, sampler, guidance, size, rows))
            if progress is not None:
                progress(images[-1].shape[0])
        return torch.cat(images)

    def _sample_batch(
        self, given: Given, noise: Noise, sampler: Sampler, guidance: Guidance, size: Size, source: Source | None
    ) -> Tensor:
        device = self.autoencoder.shift.device
        height, width = (length // self.autoencoder.factor for length in size)
        shape = (self.autoencoder.latent_channels, height, width)
        denoise, way = guidance.wrap(given), Way()
        if source is not None:
            image = source.image if source.mask is None else without_masked(source.image, source.mask)
            init = self.autoencoder.to_latent(self.autoencoder.encode(image.to(device)).mean)
            if source.mask is not None:
                made = F.max_pool2d(source.mask.to(device), self.autoencoder.factor)
                denoise = hold_known(denoise, init, made)
            if source.prompts is None:
                way = Way(init, source.strength, source.visits)
            else:
                said = clean_prompts(source.prompts)
                fields: Fields = {"caption": said, "geometry": whole_geometry(size, len(said))}
                shown = given._replace(condition=self.conditioner(fields), prompts=said, toward=None)
                start = invert(
                    Unguided().wrap(shown),
                    self.denoiser.schedule,
                    init,
                    steps=sampler.steps,
                    grid=sampler.grid,
                    strength=source.strength,
                )
                way = Way(None, source.strength, source.visits, start)
        latent = sampler.sample(denoise, self.denoiser.schedule, noise, shape, device, way)
        image = self.autoencoder.image(latent).cpu()
        if not (latent.isfinite().all() and image.isfinite().all()):
            check_weights(self)
        check_latents(latent, given.prompts, noise.seeds)
        check_finite(
            image, [f"the image of {p!r} with seed {s}" for p, s in zip(given.prompts, noise.seeds, strict=True)]
        )
        image = image.clamp(-1, 1)
        if source is None or source.mask is None:
            return image
        return torch.where(
            source.mask > 0, image, torch.lerp(source.image, image, soft_mask(source.mask, source.border))
        )

    def _check_weighting(self) -> None:
        """Sampling starts at t = 1; where nothing but noise is left there, SNR and loss may both be zero."""
        denoiser, weighting, (nothing, one) = self.denoiser, self.denoising_loss.weighting, torch.tensor([0.0, 1.0])
        if (
            denoiser.schedule.ends_in_noise
            and not weighting.weight(nothing, denoiser.prediction.gain(nothing, one)) > 0
        ):
            raise ValueError(
                f"{type(denoiser.schedule).__name__} ends in pure noise, where {type(weighting).__name__} weights the loss by "
                "zero: the first step of sampling would not be trained; use weighting=constant or edm"
            )

    def _check_channels(self) -> None:
        backbone = self.denoiser.backbone
        assert isinstance(backbone, Backbone)
        wanted = self.autoencoder.latent_channels * (2 if self.denoiser.learned_variance else 1)
        if backbone.out_channels != wanted:
            raise ValueError(
                f"the backbone gives {backbone.out_channels} channels, but latents of {self.autoencoder.latent_channels} "
                f"channels with model.denoiser.learned_variance={str(self.denoiser.learned_variance).lower()} need {wanted}; "
                f"set backbone.out_channels={wanted}"
            )
