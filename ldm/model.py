"""A complete latent diffusion model: captions in, images out. Knows neither Lightning nor Hydra."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ldm.autoencoder.base import Autoencoder
from ldm.autoencoder.derived import with_derived_fields
from ldm.autoencoder.tiles import Tiles
from ldm.backbone.base import Backbone
from ldm.batch import Batch, Size, as_size, clean_fields, tensor_field, whole_geometry
from ldm.batch import batch_size as count_rows
from ldm.conditioner.base import Conditioner, Reader
from ldm.diffusion.denoiser import Denoiser
from ldm.diffusion.loss import DenoisingLoss
from ldm.files.text import clean_prompts
from ldm.guidance.base import Guidance
from ldm.guidance.context import GuidanceContext, read_unconditional
from ldm.options.rule import COUNT, check
from ldm.sampler.base import Sampler, StartPoint
from ldm.sampler.finite import check_finite, check_latents, check_weights
from ldm.sampler.noise import SeededNoise, as_seeds
from ldm.sampler.trajectory import Denoise


def _unchanged(denoise: Denoise) -> Denoise:
    return denoise


class Beginning(NamedTuple):
    """The beginning of sampling for one batch.

    Attributes:
        given: The context of guidance.
        noise: The noise of each image.
        start_point: Where the sampler begins; by default at pure noise.
        wrap: Turns the guided denoiser into the one that the sampler calls.
    """

    given: GuidanceContext
    noise: SeededNoise
    start_point: StartPoint = StartPoint()
    wrap: Callable[[Denoise], Denoise] = _unchanged


class Start(ABC):
    """A start of sampling, which begins with more than noise, and may change the images at the end.

    It holds one row for each image, so that image i depends on row i alone. Those of image-to-image, inpainting and
    interpolation are in `ldm.generation.start`.
    """

    @property
    @abstractmethod
    def size(self) -> Size | None:
        """Return the size of the images to begin with; None where there are none."""

    @abstractmethod
    def each(self, count: int) -> Start:
        """Return this start with one row for each of `count` images.

        Raises:
            ValueError: Where it has neither one row for all nor `count` of them, or a value that cannot be.
        """

    @abstractmethod
    def rows(self, chunk: slice) -> Start:
        """Return the start of some of the images."""

    @abstractmethod
    def begin(self, model: LatentDiffusion, given: GuidanceContext, noise: SeededNoise, sampler: Sampler) -> Beginning:
        """Begin the sampling of a batch that has as many images as this start has rows.

        Args:
            model: The model that is sampled.
            given: The context of guidance, as it is without a start.
            noise: The noise of each image; nothing is drawn of it yet.
            sampler: The sampler.

        Raises:
            ValueError: If it does not go with the model or the sampler.
        """

    @abstractmethod
    def finish(self, images: Tensor) -> Tensor:
        """Return the final images, `(B, 3, H, W)` in [-1, 1], made of the sampled ones, which have that range.

        Args:
            images: The sampled images, of the size that was asked for.
        """


class NoiseStart(Start):
    """Begins with noise alone."""

    @property
    def size(self) -> None:
        """See `Start.size`."""
        return None

    def each(self, count: int) -> Start:
        """See `Start.each`."""
        return self

    def rows(self, chunk: slice) -> Start:
        """See `Start.rows`."""
        return self

    def begin(self, model: LatentDiffusion, given: GuidanceContext, noise: SeededNoise, sampler: Sampler) -> Beginning:
        """Change nothing; see `Start.begin`."""
        return Beginning(given, noise)

    def finish(self, images: Tensor) -> Tensor:
        """Return the images as they are; see `Start.finish`."""
        return images


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
        self.autoencoder.check_size(size, multiple=self.size_multiple // self.autoencoder.downsampling_factor)

    @property
    def size_multiple(self) -> int:
        """Return the number of pixels by which heights and widths of images must be divisible."""
        backbone = self.denoiser.backbone
        assert isinstance(backbone, Backbone)
        return self.autoencoder.downsampling_factor * backbone.downsampling_factor

    def loss(self, batch: Batch) -> Tensor:
        """Return the loss of each image, `(B,)`.

        It draws, from torch's generator and in this order: posterior, drop-out of conditions, times, noise. Values of fields are
        not checked, since a GPU would be waited for; `conditioner.check` does that while they are on the CPU.
        """
        x = self.autoencoder.latent(batch)
        inputs, size = self.conditioner.inputs, x.shape[-2:]
        batch = batch._replace(fields=with_derived_fields(batch.fields, inputs, self.autoencoder, size=size))
        condition = self.conditioner.with_dropout(batch.fields)
        weight = tensor_field(batch.fields, "loss_weight") if self.denoising_loss.inputs else None
        return self.denoising_loss(self.denoiser, x, condition, pixel_weight=weight)

    @torch.no_grad()
    def sample(
        self,
        fields: Mapping[str, Any] | None = None,
        *,
        prompts: str | Sequence[str] | None = None,
        seeds: int | Sequence[int] | None = None,
        size: int | Sequence[int] | None = None,
        negative: str | Sequence[str] = "",
        start: Start | None = None,
        sampler: Sampler | None = None,
        guidance: Guidance | None = None,
        batch_size: int = 16,
        tiles: Tiles | None = None,
        progress: Callable[[int], object] | None = None,
    ) -> Tensor:
        """Return images `(N, 3, H, W)` in [-1, 1], on the CPU.

        Image i depends only on row i of the fields, on seeds[i] and on the i-th value of the other options, not on the batch
        that it is made in. On a CPU that holds up to the rounding of fp32, and the same call gives the same bits again. On a
        GPU neither is promised: other kernels are chosen for other batch sizes, and some add in an order that changes from
        call to call, so that images differ by rounding, and by more where many steps or low precision let it grow. TF32,
        which `sample.py` turns off (torch.backends.cudnn.allow_tf32), adds to it; with
        torch.use_deterministic_algorithms(True) the same call gives the same bits there, too.

        An image is changed, a part of it made anew, and two prompts interpolated by a start (`ldm.generation.start`):

            model.sample(prompts="a blue heart", start=ImageStart(image, strength=0.6))
            model.sample(prompts="a blue heart", start=InpaintStart(image, mask))
            model.sample(prompts=["a heart"] * 3, seeds=[1] * 3, start=InterpolationStart(["a cat"] * 3, [1] * 3, [0, 0.5, 1]))

        Args:
            fields: Name of a field -> its values, one an image: {"caption": ["a red heart", "a blue cat"]}. Where the model
                reads `geometry` and none is given, the model is conditioned on the size that is asked for, without a crop.
            prompts: Short for fields={"caption": prompts}; a str is one prompt. White space around each is taken off, as of
                captions in training.
            seeds: One an image, whole numbers; a single number: that one, the next, ...; None: 0, 1, 2, ...
            size: Height and width of the images in pixels, one number for squares; None: that of the start's images, or as in
                training.
            negative: The negative prompt, for all or one an image; "": guidance leads away from the mean of all images. It is
                encoded even where the fields hold the cached tokens of captions.
            start: The start of sampling; None: noise alone.
            sampler: None: the model's own.
            guidance: None: the model's own.
            batch_size: Images at once; changes speed only.
            tiles: The tiles in which images are decoded, so that large ones need less memory; None: each is decoded at once.
            progress: Called with the number of images after each batch.

        Raises:
            ValueError: Where options do not fit together, the model cannot take the value of a field, or an image is not finite.
            RuntimeError: Where a text is to be encoded, and the conditioner was given no text encoder yet.
        """
        check("batch_size", batch_size, COUNT)
        fields = clean_fields(fields, prompts)
        count = count_rows(fields)
        texts = [str(text) for text in fields.get("caption", [""] * count)]
        seeds = as_seeds(seeds, count)
        negatives = clean_prompts(negative) * (count if isinstance(negative, str) else 1)
        if len(negatives) != count:
            raise ValueError(f"negative is one text, or one an image; got {len(negatives)} for {count} images")
        start = (start or NoiseStart()).each(count)
        sampler, guidance = sampler or self.sampler, guidance or self.guidance
        size = as_size(size) if size is not None else start.size or self.size
        if start.size not in (None, size):
            raise ValueError(
                f"the images to begin with are of size {start.size}, not {size}; leave size out, or resize them"
            )
        self.check_size(size)
        fields = {"geometry": whole_geometry(size, count), **fields, "seed": torch.tensor(seeds)}
        for reader in self.readers(guidance):
            reader.check(fields)
        images: list[Tensor] = []
        for first in range(0, count, batch_size):
            chunk = slice(first, first + batch_size)
            here = with_derived_fields(
                {name: values[chunk] for name, values in fields.items()},
                self.conditioner.inputs,
                self.autoencoder,
                size=[length // self.autoencoder.downsampling_factor for length in size],
            )
            given = GuidanceContext(
                self.denoiser,
                self.conditioner(here),
                read_unconditional(self.conditioner, here, negatives[chunk]),
                texts[chunk],
                self.autoencoder,
                fields=here,
                negatives=negatives[chunk],
            )
            part = start.rows(chunk)
            begun = part.begin(self, given, SeededNoise(seeds[chunk]), sampler)
            images.append(part.finish(self._sample_batch(begun, sampler, guidance, size, tiles)))
            if progress is not None:
                progress(images[-1].shape[0])
        return torch.cat(images) if images else torch.empty(0, 3, *size)

    def readers(self, guidance: Guidance | None = None) -> tuple[Reader, ...]:
        """Return the parts that read fields: the conditioner, and the readers of guidance; None: of the model's own guidance."""
        return (self.conditioner, *(guidance or self.guidance).readers)

    def _sample_batch(
        self, begun: Beginning, sampler: Sampler, guidance: Guidance, size: Size, tiles: Tiles | None
    ) -> Tensor:
        """Return the images `(B, 3, H, W)` in [-1, 1] of one batch, on the CPU, before the start finishes them."""
        given, noise, start_point, wrap = begun
        height, width = (length // self.autoencoder.downsampling_factor for length in size)
        shape = (self.autoencoder.latent_channels, height, width)
        denoise = wrap(guidance.wrap(given))
        latent = sampler.sample(
            denoise, self.denoiser.schedule, noise, shape, self.autoencoder.shift.device, start_point
        )
        image = (self.autoencoder.image(latent) if tiles is None else tiles.image(self.autoencoder, latent)).cpu()
        if not (latent.isfinite().all() and image.isfinite().all()):
            check_weights(self)
        check_latents(latent, given.prompts, noise.seeds)
        named = [f"the image of {p!r} with seed {s}" for p, s in zip(given.prompts, noise.seeds, strict=True)]
        check_finite(image, named)
        return image.clamp(-1, 1)

    def _check_weighting(self) -> None:
        """Sampling starts at t = 1; where nothing but noise is left there, SNR and loss may both be zero."""
        denoiser, weighting, (nothing, one) = (
            self.denoiser,
            self.denoising_loss.weighting,
            torch.tensor([0.0, 1.0], device="cpu"),
        )
        if (
            denoiser.schedule.zero_terminal_snr
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
