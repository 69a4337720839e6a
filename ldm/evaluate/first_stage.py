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
from ldm.checkpoint import AUTOENCODER_FILE, load_autoencoder
from ldm.config import build, resolved
from ldm.evaluate.chosen_metrics import ChosenMetrics, check_count
from ldm.evaluate.images import FolderImages, RealImages, ShardImages
from ldm.evaluate.own import PROGRAM, RECONSTRUCTIONS, output_folder
from ldm.evaluate.processes import Place
from ldm.evaluate.protocol import Protocol
from ldm.evaluate.results import write_results
from ldm.evaluate.several import checkpoints_of, measure_several
from ldm.evaluate.source import run_config
from ldm.files.marks import save_marked
from ldm.files.output_folder import OutputFolder
from ldm.files.picture import grid
from ldm.metric.base import Metric
from ldm.metric.reconstruction import ReconstructionDistance
from ldm.options.rule import COUNT, SIZE, Optional, Rule, check_all
from ldm.pretrained.vision import weights_hash

log = logging.getLogger(__name__)

OPTIONS: dict[str, Rule] = {
    "batch_size": COUNT,
    "data.size": Optional(SIZE, "as in the run, or 256"),
    "num_images": Optional(COUNT, "all"),
    "data.val_images": Optional(COUNT, "all"),
}
"""The values that the command's options can have."""

FOREIGN = ("size", "reference", "decoder", "sampler", "guidance", "degradation", "masks", "statistics")
"""Options of images that are generated."""

USUAL_SIZE = 256
"""Height and width of images where neither a command nor a run says it."""

SHOWN, COLUMNS = 32, 4
"""Images in the picture, at most, each with its reconstruction; so many pairs are in a row."""


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
    def update(self, image: Tensor) -> Tensor:
        """Reconstruct images, `(B, 3, H, W)` in [-1, 1], and add what they give; return the reconstructions."""
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
        return made

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
    """

    def run(self, config: DictConfig) -> list[dict[str, Any]]:
        """See `Protocol.run`."""
        options = resolved(config)
        check_all(options, OPTIONS)
        if (config.ckpt is None) == (config.ckpts is None):
            raise ValueError(
                "a first stage is measured by ckpt=RUN, a run folder or a file of an autoencoder, or several by "
                "ckpts='runs/x/**/step-*.ckpt'; give one of them"
            )
        for name in FOREIGN:
            if config.get(name) is not None:
                raise ValueError(f"{name}= has no meaning for a first stage, which reconstructs images; leave it out")
        if Place.here().rank:
            log.info("a first stage is measured by the first process alone")
            return []
        if config.ckpt is not None:
            return [self._of_one(config, config.ckpt, Path(config.out))]
        files = checkpoints_of(config.ckpts, Autoencoder, (AUTOENCODER_FILE,), options["packages"])
        return measure_several(
            files,
            Path(config.out),
            lambda folder: _output(folder).check(),
            lambda file, folder: self._of_one(config, file, folder),
        )

    def _of_one(self, config: DictConfig, ckpt: str, out: Path) -> dict[str, Any]:
        """Measure one first stage, and write its scores into a folder."""
        options = resolved(config)
        folder = _output(out)
        folder.check()
        images = _images(options, ckpt)
        wanted = config.num_images or config.data.val_images
        count = min(len(images), wanted or len(images))
        autoencoder, _ = load_autoencoder(ckpt, packages=options["packages"], finished=False)
        autoencoder.check_size(images.size_of(0))
        device = config.device or ("cuda" if torch.cuda.is_available() else "cpu")
        metrics = self._metrics(config, count)
        perceptual: nn.Module | None = build(config.perceptual)
        scores = ReconstructionScores(autoencoder.to(device).eval(), metrics, perceptual, count=count)
        shown: list[Tensor] = []
        with tqdm(total=count, desc="reconstructing", unit="image") as bar:
            for first, batch in enumerate(images.batches(config.batch_size, wanted)):
                if len(batch):
                    made = scores.update(batch.to(device))
                    shown += [one for pair in zip(batch, made.cpu(), strict=True) for one in pair][
                        : 2 * SHOWN - len(shown)
                    ]
                bar.update(min(config.batch_size, count - first * config.batch_size))
        if not scores.images:
            raise ValueError(f"none of the {count} images can be read; look at them")
        doubts = scores.distance.doubts(scores.images)
        for doubt in doubts:
            log.warning(doubt)
        results = {
            "of": str(ckpt),
            "protocol": self.name,
            "count": scores.images,
            "broken": count - scores.images,
            "size": list(images.size_of(0)),
            "reference": config.images or str(options["data"]["val"]),
            "published": self.published,
            "source": self.source,
            "departures": [],
            "doubts": doubts,
            "collapsed": scores.distance.suite.collapsed,
            "request": {
                "model": weights_hash(repr(autoencoder), autoencoder.state_dict()),
                "images": images.fingerprint,
            },
            "scores": scores.compute(),
        }
        with folder.lock():
            save_marked(
                grid(torch.stack(shown), columns=2 * min(COLUMNS, len(shown) // 2)), out / RECONSTRUCTIONS, PROGRAM
            )
            return write_results(folder.path, results)

    def _metrics(self, config: DictConfig, count: int) -> list[Metric]:
        chosen = ChosenMetrics(config, None, ())
        if chosen.inputs:
            raise ValueError(
                f"a metric reads {' and '.join(sorted(chosen.inputs))}, but there are images alone; choose another metric"
            )
        metrics = chosen.build()
        check_count(metrics, count)
        return list(metrics.values())


def _output(path: Path) -> OutputFolder:
    return output_folder(path, (RECONSTRUCTIONS,))


def _images(options: Mapping[str, Any], ckpt: str) -> RealImages:
    """Return the images that the options name, of the size that they name, or else that of the run."""
    data = options["data"]
    if (options["images"] is None) == (data["val"] is None):
        raise ValueError("give the images to measure on, one of images=FOLDER and data.val=SHARDS")
    run = run_config(ckpt)
    size = as_size(data["size"] or (run and run["data"].get("size")) or USUAL_SIZE)
    if options["images"] is not None:
        return FolderImages(options["images"], size)
    return ShardImages(data["val"], size, Path(data["cache"]))
