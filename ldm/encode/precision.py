"""The precision in which images are encoded, and what it costs: latents in two precisions, compared."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ldm.autoencoder.base import Autoencoder
from ldm.pretrained.precision import FULL, computing_in

LARGEST_ERROR = math.sqrt(0.00085)
"""The largest error of latents, in units of their deviation.

It is the deviation of the noise that the schedule of the paper's text-to-image model (`schedule=scaled_linear`) adds in the
first of its 1000 steps, 0.029. Every noisy latent of its training has at least this noise, which hides what is smaller.
"""


class LatentComparison(NamedTuple):
    """Latents in some precision, compared with those of the same images in 32-true, for each of C channels.

    Mean and deviation cannot differ by more than `error`, since both are bounded by the root of the mean squared difference.

    Attributes:
        precision: The precision.
        images: Number of images.
        full_mean: Mean of the latents in 32-true, `(C,)`.
        mean: Their mean in the precision, `(C,)`.
        full_std: Standard deviation of the latents in 32-true, `(C,)`.
        std: Their standard deviation in the precision, `(C,)`.
        error: Root of the mean squared difference, in units of `full_std`, `(C,)`.
    """

    precision: str
    images: int
    full_mean: Tensor
    mean: Tensor
    full_std: Tensor
    std: Tensor
    error: Tensor

    def check(self, option: str) -> None:
        """Raise ValueError where the error of some channel is above `LARGEST_ERROR`, or is not finite.

        Args:
            option: Name of the option that chose the precision.
        """
        worst = float(self.error.max()) if self.error.isfinite().all() else math.inf
        if worst > LARGEST_ERROR:
            raise ValueError(
                f"{option}={self.precision} changes these latents too much: by {worst:.2g} of their own deviation in channel "
                f"{int(self.error.nan_to_num(nan=math.inf).argmax())}, over {self.images} images; at most {LARGEST_ERROR:.2g} "
                f"is hidden by the noise that every latent gets in training; set {option}={FULL}"
            )

    def record(self) -> dict[str, Any]:
        """Return the numbers as they can be written in JSON."""
        numbers = {name: value.tolist() for name, value in self._asdict().items() if isinstance(value, Tensor)}
        return {"images": self.images, "largest_error": LARGEST_ERROR, **numbers}

    def __str__(self) -> str:
        lines = [
            f"precision: latents of {self.images} images in {self.precision} and in {FULL}; the error is in units of the "
            f"deviation, and may be {LARGEST_ERROR:.2g}",
            f"{'channel':>9}{'mean':>10}{FULL:>10}{'deviation':>12}{FULL:>10}{'error':>10}",
        ]
        rows = zip(self.mean, self.full_mean, self.std, self.full_std, self.error, strict=True)
        for channel, (mean, full_mean, std, full_std, error) in enumerate(rows):
            lines.append(f"{channel:>9}{mean:>10.4f}{full_mean:>10.4f}{std:>12.4f}{full_std:>10.4f}{error:>10.5f}")
        return "\n".join(lines)


@torch.no_grad()
def compare_precision(autoencoder: Autoencoder, images: Iterable[Tensor], precision: str) -> LatentComparison:
    """Encode images in 32-true and in another precision, and compare their raw latents.

    The latents of an image are drawn with the same noise in both, so that the spread of a posterior counts, too. No generator
    but those of its own is used.

    Args:
        autoencoder: The autoencoder.
        images: Batches of images, `(B, 3, H, W)`, in [-1, 1].
        precision: The precision, one of `PRECISIONS`.

    Raises:
        ValueError: If there are no images.
    """
    device, regularizer = autoencoder.shift.device, autoencoder.regularizer
    generators = [torch.Generator(device).manual_seed(0) for _ in range(2)]
    sums = torch.zeros(5, autoencoder.latent_channels, dtype=torch.float64, device=device)
    count, values = 0, 0
    for batch in images:
        batch = batch.to(device)
        latents = []
        for name, generator in zip((FULL, precision), generators, strict=True):
            with computing_in(name, device):
                moments = autoencoder.encode(batch).moments
            latents.append(regularizer(moments.float()).sample(generator).double().transpose(0, 1).flatten(1))
        full, other = latents
        sums += torch.stack([full.sum(1), full.square().sum(1), other.sum(1), other.square().sum(1),
                             (other - full).square().sum(1)])  # fmt: skip
        count, values = count + len(batch), values + full.shape[1]
    if not count:
        raise ValueError("there are no images whose latents could be compared; give data.train shards that hold some")
    full_mean, full_square, mean, square, squared_error = (sums / values).cpu()
    full_std, std = (
        (both - one.square()).clamp(min=0).sqrt() for one, both in ((full_mean, full_square), (mean, square))
    )
    error = squared_error.sqrt() / full_std.clamp(min=1e-12)
    return LatentComparison(precision, count, full_mean, mean, full_std, std, error)
