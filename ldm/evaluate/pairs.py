"""Distances between images and their reconstructions, and the use that a regulariser makes of its latents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from ldm.autoencoder.regularizer import Encoding, Regularizer
from ldm.metric.similarity import peak_signal_noise_ratio, structural_similarity

NUMBERS, ROWS, MEANS, SUMS = "numbers", "rows/", "means/", "sums"
"""Prefixes of the tensors of a state: numbers of the images; a value of each; its sum over images; the regulariser's sums."""


class PairScores:
    """PSNR, SSIM and a perceptual distance between images and their reconstructions, and the metrics of the regulariser.

    Each is a mean over images, or follows from sums over them, so that what several processes have collected can be merged.

    Args:
        regularizer: The regulariser of the autoencoder.
        perceptual: A distance between two batches of images, `(B,)`, which is called lpips; None: none.

    Attributes:
        numbers: The numbers of the images that were added.
    """

    def __init__(self, regularizer: Regularizer[Encoding], perceptual: nn.Module | None = None) -> None:
        self.regularizer = regularizer
        self.perceptual = perceptual
        self.reset()

    def to(self, device: torch.device) -> None:
        """Move the network of the perceptual distance to a device."""
        if self.perceptual is not None:
            self.perceptual.to(device)

    def reset(self) -> None:
        """Forget all images."""
        self._rows: dict[str, list[Tensor]] = {}
        self._sums: dict[str, Tensor] = {}
        self.numbers: list[int] = []

    @torch.no_grad()
    def update(self, images: Tensor, reconstructions: Tensor, encoding: Encoding, numbers: Sequence[int]) -> None:
        """Add images.

        Args:
            images: `(B, 3, H, W)` in [-1, 1].
            reconstructions: The reconstructions of the images, of the same shape.
            encoding: The encoding of the images.
            numbers: The number of each image.
        """
        rows = {
            "psnr": peak_signal_noise_ratio(reconstructions, images),
            "ssim": structural_similarity(reconstructions, images),
        }
        if self.perceptual is not None:
            rows["lpips"] = self.perceptual(images, reconstructions)
        for name, values in rows.items():
            self._rows.setdefault(name, []).append(values.cpu().double().reshape(len(images)))
        penalty = self.regularizer.penalty(encoding, images[0].numel())
        self._add({MEANS + name: mean.cpu().double() * len(images) for name, mean in penalty.means.items()})
        self._add({SUMS: penalty.sums.cpu().double()})
        self.numbers += numbers

    def state(self) -> dict[str, Tensor]:
        """Return all that was collected, as tensors by name; `merge` puts those of several processes together."""
        rows = {ROWS + name: torch.cat(values) for name, values in self._rows.items()}
        return {NUMBERS: torch.tensor(self.numbers, dtype=torch.int64), **rows, **self._sums}

    def merge(self, state: Mapping[str, Tensor]) -> None:
        """Add what another process has collected, as its `state` gives it."""
        for name, values in state.items():
            if name.startswith(ROWS):
                self._rows.setdefault(name.removeprefix(ROWS), []).append(values)
        self._add({name: value for name, value in state.items() if name == SUMS or name.startswith(MEANS)})
        self.numbers += state[NUMBERS].tolist()

    def compute(self) -> dict[str, float]:
        """Return name -> score over all images; infinite where all come back exactly, as their PSNR."""
        scores = {name: torch.cat(rows).mean() for name, rows in self._rows.items()}
        means = {name: total / len(self.numbers) for name, total in self._sums.items() if name.startswith(MEANS)}
        scores |= {name.removeprefix(MEANS): mean for name, mean in means.items()}
        if SUMS in self._sums:
            scores |= self.regularizer.metrics_of(self._sums[SUMS])
        return {name: float(value) for name, value in scores.items()}

    def _add(self, sums: Mapping[str, Tensor]) -> None:
        for name, value in sums.items():
            self._sums[name] = value if name not in self._sums else self._sums[name] + value
