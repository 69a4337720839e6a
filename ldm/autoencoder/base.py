"""The base class of autoencoders: image -> raw latent -> image, and raw latent <-> latent."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from ldm.autoencoder.regularizer import Encoding, Regularizer
from ldm.batch import Batch, as_size, tensor_field
from ldm.files.digest import weights_hash
from ldm.pretrained.precision import computing_in, encoding_precision, float64, float64_device, full_precision


class Autoencoder(nn.Module, ABC):
    """An autoencoder, which maps images to raw latents and back, and raw latents to the latents of diffusion and back.

    Subclasses say which networks encode and decode; the regulariser between them is an object.

    A latent is `(raw - shift) * scale`, for each channel. Shift and scale are estimated from data at the end of
    training (see `LatentMoments`) and saved in the checkpoint, with the number of images they were estimated on.

    Args:
        regularizer: The regulariser of the raw latents.
        latent_channels: Channels C of the raw latent.
        downsampling_factor: Downsampling factor f: height and width of an image, divided by those of its latent.
    """

    shift: Tensor
    scale: Tensor
    statistics_count: Tensor

    def __init__(self, regularizer: Regularizer[Any], latent_channels: int, downsampling_factor: int) -> None:
        super().__init__()
        self.latent_channels = latent_channels
        self.downsampling_factor = downsampling_factor
        self.register_buffer("shift", torch.zeros(latent_channels))
        self.register_buffer("scale", torch.ones(latent_channels))
        self.register_buffer("statistics_count", torch.zeros((), dtype=torch.long))
        self.regularizer = regularizer

    @abstractmethod
    def encode_moments(self, image: Tensor) -> Tensor:
        """Return the output of the encoder network.

        Args:
            image: Images, `(B, 3, H, W)`, in [-1, 1].

        Returns:
            What the regulariser takes, `(B, M, H/f, W/f)`.
        """

    @abstractmethod
    def decode_projected(self, projected: Tensor) -> Tensor:
        """Return the output of the decoder network.

        Args:
            projected: The regulariser's replacement of raw latents, `(B, C, h, w)`.

        Returns:
            Images, `(B, 3, h*f, w*f)`, about in [-1, 1].
        """

    @abstractmethod
    def encoding_layers(self) -> Sequence[nn.Module]:
        """Return the modules that `encode_moments` computes with."""

    @abstractmethod
    def last_layer(self) -> Tensor:
        """Return the weight of the decoder's last layer, at which the adversarial loss is balanced."""

    @abstractmethod
    def last_encoding_layer(self) -> Tensor:
        """Return the weight of the encoder's last layer, at which the alignment of latents is balanced."""

    def encode(self, image: Tensor) -> Encoding:
        """Encode images.

        Args:
            image: Images, `(B, 3, H, W)`, in [-1, 1].

        Returns:
            Their raw latents, `(B, C, H/f, W/f)`, or a distribution over them.
        """
        encoding: Encoding = self.regularizer(self.encode_moments(image))
        return encoding

    def encode_frozen(self, image: Tensor) -> Encoding:
        """Encode images for a model in the latent space: in fp32 also under autocast, as latents that are cached.

        Within `encoding_in` the encoder computes in another precision. What follows it, up to the latents, does not.

        Args:
            image: Images, `(B, 3, H, W)`, in [-1, 1].

        Returns:
            Their raw latents, `(B, C, H/f, W/f)`, or a distribution over them.
        """
        with computing_in(encoding_precision(), image.device):
            moments = self.encode_moments(image)
        with full_precision(image.device):
            encoding: Encoding = self.regularizer(moments.float())
        return encoding

    def decode(self, raw: Tensor, encoding: Encoding | None = None) -> Tensor:
        """Decode raw latents.

        Args:
            raw: Raw latents, `(B, C, h, w)`.
            encoding: The encoding that they are the sample or the mean of, which saves time; see `Regularizer.project`.

        Returns:
            Images, `(B, 3, h*f, w*f)`, about in [-1, 1].
        """
        return self.decode_projected(self.regularizer.project(raw, encoding))

    def encoding_parts(self) -> Sequence[nn.Module]:
        """Return the modules that `encode` computes with."""
        return [*self.encoding_layers(), *self.regularizer.encoding_parts()]

    def to_latent(self, raw: Tensor) -> Tensor:
        """Shift and scale raw latents, `(B, C, h, w)`, to about zero mean and unit variance per channel."""
        return (raw - self.shift[:, None, None]) * self.scale[:, None, None]

    def to_raw(self, latent: Tensor) -> Tensor:
        """Return the raw latents of latents, `(B, C, h, w)`: the inverse of `to_latent`."""
        return latent / self.scale[:, None, None] + self.shift[:, None, None]

    def image(self, latent: Tensor) -> Tensor:
        """Decode latents, `(B, C, h, w)`, to images, `(B, 3, H, W)`, about in [-1, 1]; differentiable."""
        return self.decode(self.to_raw(latent)).float()

    @property
    def encoder_hash(self) -> str:
        """A hash of what `encode` computes: it changes with the encoder's weights, not with the decoder's."""
        return weights_hash(chain.from_iterable(part.state_dict().items() for part in self.encoding_parts()))

    @torch.no_grad()
    def latent(self, batch: Batch) -> Tensor:
        """Draw latents of the images of a batch, or of its cached moments.

        Args:
            batch: Images, `(B, 3, H, W)`, or cached moments, `(B, M, h, w)`.

        Returns:
            Latents, `(B, C, h, w)`.
        """
        return self.to_latent(self._encoding(batch).sample())

    @torch.no_grad()
    def mean_latent(self, batch: Batch) -> Tensor:
        """Return the mean latents of the images of a batch, or of its cached moments; nothing is drawn. See `latent`."""
        return self.to_latent(self._encoding(batch).mean)

    def _encoding(self, batch: Batch) -> Encoding:
        if "moments" in batch.fields:
            cached: Encoding = self.regularizer(tensor_field(batch.fields, "moments"))
            return cached
        return self.encode_frozen(tensor_field(batch.fields, "image"))

    def same_latents(self, other: Autoencoder) -> bool:
        """Return whether another autoencoder gives the same latents; its decoder may be another one."""
        statistics = torch.equal(self.shift, other.shift) and torch.equal(self.scale, other.scale)
        return statistics and self.encoder_hash == other.encoder_hash

    def check_size(self, size: int | Sequence[int], *, multiple: int = 1) -> None:
        """Check that the encoder can divide the size of an image, and a network that of its latents.

        Args:
            size: Height and width of images in pixels; one number for squares.
            multiple: Heights and widths of latents must be multiples of it.

        Raises:
            ValueError: Where the size cannot be divided so.
        """
        size, step = as_size(size), self.downsampling_factor * multiple
        for length in size:
            if length % step:
                below = length - length % step
                what = "this autoencoder divides" if multiple == 1 else "autoencoder and network divide"
                raise ValueError(
                    f"image size {size} is not a multiple of {step}, by which {what} it; in the place of {length} use "
                    f"{f'{below} or ' if below else ''}{below + step}"
                )


class LatentMoments:
    """Sums over raw latents, from which shift and scale are estimated. The `totals` of several processes may be added.

    Args:
        channels: Channels C of the raw latent.
        device: Device of the sums.

    Attributes:
        totals: `(2C + 2,)`, float64: sum per channel, sum of squares per channel, number of values per channel, number
            of images.
    """

    def __init__(self, channels: int, device: torch.device | str = "cpu") -> None:
        self.channels = channels
        self.totals = torch.zeros(2 * channels + 2, dtype=torch.float64, device=float64_device(torch.device(device)))

    def update(self, raw: Tensor) -> None:
        """Add raw latents, `(B, C, h, w)`."""
        values = float64(raw).transpose(0, 1).flatten(1)
        counts = torch.tensor([values.shape[1], raw.shape[0]], dtype=torch.float64, device=values.device)
        self.totals += torch.cat([values.sum(1), values.square().sum(1), counts])

    def store(self, autoencoder: Autoencoder) -> None:
        """Write shift (mean), scale (1 / standard deviation) and number of images into the autoencoder.

        Args:
            autoencoder: The autoencoder, which is changed.

        Raises:
            ValueError: If no images were added.
        """
        total, squares = self.totals[:-2].view(2, -1)
        values, images = self.totals[-2:]
        if images < 1:
            raise ValueError(
                "no latents seen: statistics need at least one image; give a training set that is not empty"
            )
        mean = total / values
        std = (squares / values - mean.square()).clamp(min=1e-12).sqrt()
        autoencoder.shift.copy_(mean)
        autoencoder.scale.copy_(1.0 / std)
        autoencoder.statistics_count.fill_(int(images))


@torch.no_grad()
def latent_moments(autoencoder: Autoencoder, images: Iterable[Tensor]) -> LatentMoments:
    """Return the sums over the raw latents of images; the result is repeatable.

    Latents are drawn with noise of its own generator, so that the state of no other generator matters.

    Args:
        autoencoder: The autoencoder.
        images: Batches of images, `(B, 3, H, W)`, in [-1, 1].

    Returns:
        The sums over all latents.
    """
    device = autoencoder.shift.device
    generator = torch.Generator(device).manual_seed(0)
    moments = LatentMoments(autoencoder.latent_channels, device)
    for batch in images:
        moments.update(autoencoder.encode(batch.to(device)).sample(generator))
    return moments
