"""Measuring how well a first stage reconstructs images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from PIL.Image import Image
from torch import Tensor, nn

from ldm.autoencoder.base import Autoencoder
from ldm.autoencoder.regularizer import Encoding
from ldm.batch import as_size
from ldm.checkpoint import AUTOENCODER_FILE, load_autoencoder
from ldm.config import build, resolved
from ldm.evaluate.chosen_metrics import ChosenMetrics, check_count, known_by
from ldm.evaluate.folder import EvaluationFolder
from ldm.evaluate.images import FolderImages, RealImages, ShardImages, SpreadImages
from ldm.evaluate.own import PROGRAM, RECONSTRUCTED, RECONSTRUCTIONS, Results, check_folder
from ldm.evaluate.pairs import PairScores
from ldm.evaluate.part_work import Measured, PartWork
from ldm.evaluate.processes import Place
from ldm.evaluate.protocol import Protocol, begin_measuring, refuse_options
from ldm.evaluate.results import Findings, new_results
from ldm.evaluate.several import measure_models
from ldm.evaluate.source import run_config
from ldm.files.digest import weights_hash
from ldm.files.marks import save_marked
from ldm.files.picture import grid
from ldm.metric.base import FeatureMetric
from ldm.metric.statistics import Reference, Statistics, evenly_spaced
from ldm.metric.suite import MetricSuite
from ldm.options.rule import COUNT, SIZE, Optional, Rule, check_all

OPTIONS: dict[str, Rule] = {
    "batch_size": COUNT,
    "data.size": Optional(SIZE, "as in the run, or 256"),
    "num_images": Optional(COUNT, "all"),
    "data.val_images": Optional(COUNT, "all"),
}
"""The rules of the command's options."""

FOREIGN = (
    "unrounded",
    "size",
    "reference",
    "decoder",
    "lora",
    "sampler",
    "guidance",
    "degradation",
    "masks",
    "statistics",
)
"""Options that apply to generated images only."""

USUAL_SIZE = 256
"""Height and width of images where neither the command nor a run gives them."""

SHOWN, COLUMNS = 32, 4
"""The largest number of images in the picture, each with its reconstruction; and the number of pairs in a row."""


class ReconstructionWork(PartWork):
    """Reconstructs images and measures them.

    The scores are those of stage 1's validation: reconstructions of mean latents, clipped to [-1, 1], in float32.

    Args:
        folder: See `PartWork`; so is place.
        images: The images.
        autoencoder: The autoencoder, on its device.
        suites: The suites that measure the distribution of reconstructions, by a name for what each one keeps.
        pairs: Compares images with their reconstructions.
        pairs_store: A name for what that keeps.
        batch_size: Images at once.
    """

    def __init__(
        self,
        folder: EvaluationFolder,
        place: Place,
        images: RealImages,
        autoencoder: Autoencoder,
        *,
        suites: Mapping[str, MetricSuite],
        pairs: PairScores,
        pairs_store: str,
        batch_size: int,
    ) -> None:
        super().__init__(folder, place, len(images), description="reconstructing")
        self.images = images
        self.autoencoder = autoencoder
        self.device = autoencoder.shift.device
        self.suites = dict(suites)
        self.real = {f"{name}-of-images": MetricSuite(suite.metrics) for name, suite in suites.items()}
        self.pairs = pairs
        self.batch_size = batch_size
        self._measures: dict[str, MetricSuite | PairScores] = {pairs_store: pairs, **self.suites, **self.real}

    @property
    def stores(self) -> Sequence[str]:
        """See `PartWork.stores`."""
        return list(self._measures)

    def content_of(self, part: Sequence[int]) -> str:
        """See `PartWork.content_of`."""
        return f"{self.folder.request['model']} {self.images.content_of(part)}"

    def measure(self, part: Sequence[int], stores: Sequence[str]) -> Measured:
        """See `PartWork.measure`."""
        measures = {name: self._measures[name] for name in stores}
        for one in measures.values():
            one.to(self.device)
            one.reset()
        for first in range(0, len(part), self.batch_size):
            found = self.images.read(part[first : first + self.batch_size])
            if not found.numbers:
                continue
            images = found.images.to(self.device)
            made, encoding = self._reconstruct(images)
            for name, one in measures.items():
                if isinstance(one, PairScores):
                    one.update(images, made, encoding, found.numbers)
                else:
                    one.update(images if name in self.real else made, {}, found.numbers)
        return {name: one.state() for name, one in measures.items()}

    def merge(self) -> int:
        """See `PartWork.merge`; suites and pairs get what was measured."""
        for name, one in self._measures.items():
            one.reset()
            for found in self.collect(name):
                one.merge(found)
        return len(self.pairs.numbers)

    def distances(self) -> dict[str, float]:
        """Return name -> distance between the distributions of reconstructions and of images, once they are merged.

        A name is that of the metric with an r before it: rFID is `rfid`.
        """
        distances: dict[str, float] = {}
        for suite, real in zip(self.suites.values(), self.real.values(), strict=True):
            references = {}
            for signature, kept in suite.real_features.items():
                features = real.features[signature].ordered().to(self.device)
                some = features[evenly_spaced(len(features), kept)] if kept else None
                references[signature] = Reference(Statistics.of(features), some)
            distances |= {f"r{name}": value for name, value in suite.compute(references).items()}
        return distances

    def picture(self, numbers: Sequence[int]) -> Image:
        """Return a picture of some images with their reconstructions to the right of them."""
        shown: list[Tensor] = []
        for first in range(0, len(numbers), self.batch_size):
            images = self.images.read(numbers[first : first + self.batch_size]).images
            made, _ = self._reconstruct(images.to(self.device))
            shown += [one for pair in zip(images, made.cpu(), strict=True) for one in pair]
        return grid(torch.stack(shown), columns=2 * min(COLUMNS, len(numbers)))

    @torch.no_grad()
    def _reconstruct(self, images: Tensor) -> tuple[Tensor, Encoding]:
        """Return reconstructions of images, both `(B, 3, H, W)` in [-1, 1], and the encoding of these."""
        encoding = self.autoencoder.encode(images)
        return self.autoencoder.decode(encoding.mean, encoding).float().clamp(-1, 1), encoding


class ReconstructionProtocol(Protocol):
    """Measures the reconstructions of a first stage.

    Args:
        name: See `Protocol`; so are published and source.
    """

    def run(self, config: DictConfig) -> list[Results]:
        """See `Protocol.run`."""
        options = resolved(config)
        check_all(options, OPTIONS)
        if (config.ckpt is None) == (config.ckpts is None):
            raise ValueError(
                "a first stage is measured by ckpt=RUN, a run folder or a file of an autoencoder, or several by "
                "ckpts='runs/x/**/step-*.ckpt'; give one of them"
            )
        refuse_options(config, FOREIGN, "a first stage, which reconstructs images")
        begin_measuring(config)
        return measure_models(
            config, RECONSTRUCTED, Autoencoder, (AUTOENCODER_FILE,), lambda ckpt, out: self._of_one(config, ckpt, out)
        )

    def _of_one(self, config: DictConfig, ckpt: str, out: Path) -> Results:
        """Measure one first stage, and write its scores into a folder."""
        place, options = Place.here(), resolved(config)
        check_folder(out, RECONSTRUCTED)
        images = _images(options, ckpt)
        autoencoder, _ = load_autoencoder(ckpt, packages=options["packages"], finished=False)
        autoencoder.check_size(images.size_of(0))
        suites = _suites(config, len(images))
        perceptual: nn.Module | None = build(config.perceptual)
        pairs = PairScores(autoencoder.regularizer, perceptual)
        request = {
            "model": weights_hash(autoencoder.state_dict().items(), repr(autoencoder)),
            "images": images.fingerprint,
        }
        folder = EvaluationFolder(out, RECONSTRUCTED, request)
        work = ReconstructionWork(
            folder,
            place,
            images,
            autoencoder.to(place.device(config.device)).eval(),
            suites=suites,
            pairs=pairs,
            pairs_store=f"pairs-{known_by(options['perceptual'])}",
            batch_size=config.batch_size,
        )
        reference = config.images or str(options["data"]["val"])
        sizes = [images.size_of(0)]
        results = new_results(self, str(ckpt), request, reference=reference, count=len(images), sizes=sizes)

        def conclude(count: int) -> Findings:
            scores = pairs.compute() | work.distances()
            save_marked(work.picture(pairs.numbers[:SHOWN]), out / RECONSTRUCTIONS, PROGRAM)
            warnings = [f"r{warning}" for suite in suites.values() for warning in suite.warnings(count)]
            return Findings(scores, warnings, [reason for suite in suites.values() for reason in suite.collapsed])

        return work.run(results, conclude)


def _suites(config: DictConfig, count: int) -> dict[str, MetricSuite]:
    """Return suites of those chosen metrics that compare distributions of images."""
    chosen = ChosenMetrics(config, None, ())
    if chosen.inputs:
        raise ValueError(
            f"a metric reads {' and '.join(sorted(chosen.inputs))}, but there are images alone; choose another metric"
        )
    metrics = chosen.build()
    check_count(metrics, count)
    return chosen.suites(
        {name: one for name, one in metrics.items() if isinstance(one, FeatureMetric) and one.needs_reference}
    )


def _images(options: Mapping[str, Any], ckpt: str) -> RealImages:
    """Return the images that the options name, as many as they say, of the size that they name, or else that of the run."""
    data = options["data"]
    if (options["images"] is None) == (data["val"] is None):
        raise ValueError("give the images to measure on, one of images=FOLDER and data.val=SHARDS")
    run = run_config(ckpt)
    size = as_size(data["size"] or (run and run["data"].get("size")) or USUAL_SIZE)
    found: RealImages
    if options["images"] is not None:
        found = FolderImages(options["images"], size)
    else:
        found = ShardImages(data["val"], size, Path(data["cache"]))
    return SpreadImages(found, min(len(found), options["num_images"] or data["val_images"] or len(found)))
