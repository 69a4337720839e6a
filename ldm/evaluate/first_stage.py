"""Measuring how well a first stage reconstructs images."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor, nn
from torchmetrics.image import PeakSignalNoiseRatio, StructuralSimilarityIndexMeasure
from tqdm.auto import tqdm

from ldm.autoencoder.base import Autoencoder
from ldm.autoencoder.regularizer import Penalty
from ldm.batch import as_size
from ldm.checkpoint import load_autoencoder
from ldm.config import build, resolved
from ldm.evaluate.defaults import offline_metric
from ldm.evaluate.images import FolderImages, RealImages, ShardImages
from ldm.evaluate.protocol import Protocol
from ldm.evaluate.results import ScoresFolder, write_results
from ldm.metric.base import Metric
from ldm.metric.reconstruction import ReconstructionDistance
from ldm.options.rule import COUNT, SIZE, Optional, Rule, check_all
from ldm.pretrained.lpips import LPIPS

log = logging.getLogger(__name__)

OPTIONS: dict[str, Rule] = {
    "batch_size": COUNT,
    "data.size": Optional(SIZE, "256"),
    "data.val_images": Optional(COUNT, "all"),
}
"""The values that the command's options can have."""

USUAL_SIZE = 256
"""Height and width of images where a command says none."""


class ReconstructionScores:
    """Measures how far reconstructions are from their images, and how the regulariser's latents are used.

    The scores of a batch are those of stage 1's validation: reconstructions of mean latents, clipped to [-1, 1], in float32.

    Args:
        autoencoder: The autoencoder, on the device of the images.
        metrics: Distances between the distributions of images and of reconstructions.
        perceptual: A distance between two batches of images, `(B,)`, logged as lpips; None: none.
        count: Number of images that will be measured.
    """

    def __init__(
        self, autoencoder: Autoencoder, metrics: Sequence[Metric], perceptual: nn.Module | None = None, *, count: int
    ) -> None:
        device = autoencoder.shift.device
        self.autoencoder = autoencoder
        self.distance = ReconstructionDistance(metrics)
        self.perceptual = None if perceptual is None else perceptual.to(device)
        self.psnr = PeakSignalNoiseRatio(data_range=2.0, dim=(1, 2, 3), reduction="elementwise_mean").to(device)
        self.ssim = StructuralSimilarityIndexMeasure(data_range=2.0).to(device)
        self.images = 0
        self.means: dict[str, float] = {}
        self.sums: Tensor | None = None
        self.distance.to(device)
        self.distance.start(count)

    @torch.no_grad()
    def update(self, image: Tensor) -> None:
        """Reconstruct images, `(B, 3, H, W)` in [-1, 1], and add what they give."""
        encoding = self.autoencoder.encode(image)
        made = self.autoencoder.decode(encoding.mean, encoding).float().clamp(-1, 1)
        self.psnr.update(made, image)
        self.ssim.update(made, image)
        self.distance.update(image, made, range(self.images, self.images + len(image)))
        penalty: Penalty = self.autoencoder.regularizer.penalty(encoding, image[0].numel())
        means = dict(penalty.means)
        if self.perceptual is not None:
            means["lpips"] = self.perceptual(image, made).mean()
        for name, value in means.items():
            self.means[name] = self.means.get(name, 0.0) + float(value) * len(image)
        self.sums = penalty.sums.double() if self.sums is None else self.sums + penalty.sums
        self.images += len(image)

    def compute(self) -> dict[str, float | None]:
        """Return name -> score over all images; None where it is infinite, as the PSNR of images that come back exactly.

        A distance between distributions has an r before its metric's name: rfid; see `ReconstructionDistance`.
        """
        ssim = self.ssim.compute()
        assert isinstance(ssim, Tensor)
        scores: dict[str, float] = {"psnr": float(self.psnr.compute()), "ssim": float(ssim)}
        scores |= {name: total / self.images for name, total in self.means.items()}
        scores |= self.distance.compute()
        if self.sums is not None:
            found = self.autoencoder.regularizer.metrics_of(self.sums)
            scores |= {name: float(value) for name, value in found.items()}
        return {name: value if math.isfinite(value) else None for name, value in scores.items()}


class ReconstructionProtocol(Protocol):
    """Measures the reconstructions of a first stage.

    Args:
        name: See `Protocol`; so are published and source.
        vgg16: Weights of VGG16, for LPIPS; None: it is not measured.
    """

    def __init__(
        self, name: str, *, published: Mapping[str, float] | None = None, source: str = "", vgg16: str | None = None
    ) -> None:
        super().__init__(name, published=published, source=source)
        self.vgg16 = vgg16

    def run(self, config: DictConfig) -> list[dict[str, Any]]:
        """See `Protocol.run`."""
        options = resolved(config)
        check_all(options, OPTIONS)
        if config.ckpt is None:
            raise ValueError("a first stage is measured by ckpt=RUN, a run folder or a file of an autoencoder")
        folder = ScoresFolder(config.out)
        folder.check()
        images = _images(options)
        wanted = config.num_images or config.data.val_images
        count = min(len(images), wanted or len(images))
        metrics = self._metrics(config, count)
        autoencoder, _ = load_autoencoder(config.ckpt, packages=options["packages"], finished=False)
        autoencoder.check_size(images.size_of(0))
        device = config.device or ("cuda" if torch.cuda.is_available() else "cpu")
        perceptual = None if self.vgg16 is None else LPIPS(vgg16=self.vgg16)
        scores = ReconstructionScores(autoencoder.to(device).eval(), metrics, perceptual, count=count)
        doubts = scores.distance.doubts(count)
        for doubt in doubts:
            log.warning(doubt)
        with tqdm(total=count, desc="reconstructing", unit="image") as bar:
            for batch in images.batches(config.batch_size, wanted):
                if len(batch):
                    scores.update(batch.to(device))
                bar.update(len(batch))
        if not scores.images:
            raise ValueError(f"none of the {count} images can be read; look at them")
        results = {
            "of": str(config.ckpt),
            "protocol": self.name,
            "count": scores.images,
            "broken": count - scores.images,
            "size": list(images.size_of(0)),
            "reference": config.images or str(options["data"]["val"]),
            "published": self.published,
            "source": self.source,
            "doubts": doubts,
            "scores": scores.compute(),
        }
        with folder.lock():
            return [write_results(folder.path, results)]

    def _metrics(self, config: DictConfig, count: int) -> list[Metric]:
        metrics: list[Metric] = list(build(config.get("metric") or offline_metric()).values())
        for metric in metrics:
            if count < metric.least_images or metric.inputs:
                raise ValueError(
                    f"{metric.names[0]} needs {', '.join(metric.inputs) or f'at least {metric.least_images} images'}, but there "
                    f"are {count} images alone; choose another metric"
                )
        return metrics


def _images(options: Mapping[str, Any]) -> RealImages:
    """Return the images that the options name."""
    data = options["data"]
    if (options["images"] is None) == (data["val"] is None):
        raise ValueError("give the images to measure on, one of images=FOLDER and data.val=SHARDS")
    size = as_size(data["size"] or USUAL_SIZE)
    if options["images"] is not None:
        return FolderImages(options["images"], size)
    return ShardImages(data["val"], size, Path(data["cache"]))
