"""Measuring generated images: those of a latent diffusion model, of several checkpoints, or anybody's in a folder."""

from __future__ import annotations

import glob
import hashlib
import json
import logging
import os
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from tqdm.auto import tqdm

from ldm import checkpoint
from ldm.batch import Size, as_size, of_one_size
from ldm.config import build, build_trusted, resolved
from ldm.data.base import DataModule
from ldm.evaluate.conditions import Conditions, OpenConditions
from ldm.evaluate.curve import CURVE, PICTURE, write_curve
from ldm.evaluate.defaults import offline_metric
from ldm.evaluate.folder import GRID, EvaluationFolder, parts_of
from ldm.evaluate.images import FolderImages
from ldm.evaluate.measured_images import FoundImages, MeasuredImages, SampledImages
from ldm.evaluate.processes import Place
from ldm.evaluate.protocol import Protocol
from ldm.evaluate.reference import ReferenceSource, reference_source
from ldm.evaluate.results import write_results
from ldm.evaluate.source import data_module, run_config
from ldm.files.output_folder import OutputFolder
from ldm.files.picture import grid, stack_padded
from ldm.files.waiting import wait_for
from ldm.generation.inputs import picture_size
from ldm.generation.pictures import find_images
from ldm.guidance.base import Guidance
from ldm.metric.base import FeatureMetric, Metric
from ldm.metric.statistics import Reference
from ldm.metric.suite import MetricSuite
from ldm.model import LatentDiffusion
from ldm.options.rule import COUNT, SEED, SIZE, Optional, Rule, check_all
from ldm.pretrained.vision import weights_hash
from ldm.sampler.base import Sampler

log = logging.getLogger(__name__)

OPTIONS: dict[str, Rule] = {
    "num_images": Optional(COUNT, "as many as there are conditions, at most 5000"),
    "seed": SEED,
    "size": Optional(SIZE, "as in training"),
    "batch_size": COUNT,
    "data.size": Optional(SIZE, "as in training"),
    "data.val_images": Optional(COUNT, "as in training"),
}
"""The values that the command's options can have."""

SHOWN = 64
"""Images in the picture, at most."""


class GenerationProtocol(Protocol):
    """Measures images that a model generates, one for each of some conditions, or images of a folder.

    Args:
        name: See `Protocol`; so are published and source.
    """

    def run(self, config: DictConfig) -> list[dict[str, Any]]:
        """See `Protocol.run`."""
        check_all(resolved(config), OPTIONS)
        named = [name for name in ("ckpt", "ckpts", "images") if config[name] is not None]
        if len(named) != 1:
            got = " and ".join(named) or "none"
            raise ValueError(f"give one of ckpt=RUN, ckpts='runs/x/**/step-*.ckpt' and images=FOLDER; got {got}")
        # Rounding of TF32 depends on the batch.
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        out = Path(config.out)
        if config.images is not None:
            return [_Evaluation(self, config, run=None).of_folder(config.images, out)]
        if config.ckpt is not None:
            return [self.of_model(config, config.ckpt, out)]
        return self._of_several(config, out)

    def of_model(self, config: DictConfig, ckpt: str, out: Path) -> dict[str, Any]:
        """Measure one model.

        Args:
            config: See `Protocol.run`.
            ckpt: A run folder, or a checkpoint.
            out: A folder for what is written.

        Returns:
            The results, on processes after the first without scores.

        Raises:
            ValueError: See `Protocol.run`.
        """
        return _Evaluation(self, config, run=run_config(ckpt)).of_model(ckpt, out)

    def _of_several(self, config: DictConfig, out: Path) -> list[dict[str, Any]]:
        """Measure the checkpoints that a pattern names, each into a folder of its own."""
        files = sorted(glob.glob(config.ckpts, recursive=True))
        if not files:
            raise ValueError(
                f"no checkpoint is named by ckpts={config.ckpts}; a pattern is like 'runs/x/**/step-*.ckpt'"
            )
        common = os.path.commonpath([str(Path(file).parent) for file in files])
        names = [str(Path(file).relative_to(common).with_suffix("")).replace(os.sep, "-") for file in files]
        own = {*names, CURVE, PICTURE}
        OutputFolder(out, option="out", is_own=own.__contains__).check()
        results = []
        for file, name in zip(files, names, strict=True):
            log.info("%s", file)
            results.append(self.of_model(config, file, out / name))
        if Place.here().rank == 0:
            write_curve(out, results)
        return results


def _device(name: str | None, place: Place) -> torch.device:
    """Return the device that is named, or this process's GPU, or the CPU."""
    return torch.device(name or (f"cuda:{place.local}" if torch.cuda.is_available() else "cpu"))


class _Evaluation:
    """One evaluation: of a model, or of a folder.

    Args:
        protocol: The protocol.
        config: The options.
        run: The config of the run that the model belongs to; None: it is not known.
    """

    def __init__(self, protocol: Protocol, config: DictConfig, *, run: dict[str, Any] | None) -> None:
        self.protocol = protocol
        self.config = config
        self.run = run
        self.packages: list[str] = list(config.packages)
        self.place = Place.here()
        self.device = _device(config.device, self.place)
        self.metrics = self._metrics()
        self.suites = self._suites()
        self.batch_size: int = config.batch_size
        self._data: DataModule | None = None

    def data(self) -> DataModule:
        """Return the data module, made at the first call."""
        if self._data is None:
            self._data = data_module(resolved(self.config.data), self.run, self.packages)
        return self._data

    def of_model(self, ckpt: str, out: Path) -> dict[str, Any]:
        """Generate and measure the images of a checkpoint."""
        config = self.config
        model = checkpoint.load(ckpt, device=self.device, packages=self.packages)
        if config.decoder is not None:
            model.autoencoder = checkpoint.with_decoder(model.autoencoder, config.decoder, packages=self.packages)
        sampler: Sampler | None = None if config.get("sampler") is None else build(config.sampler)
        guidance: Guidance | None = None if config.get("guidance") is None else build(config.guidance)
        size = model.size if config.size is None else as_size(config.size)
        model.check_size(size)
        conditions: Conditions = build(config.conditions)
        inputs = {name for metric in self.metrics.values() for name in metric.inputs}
        opened = conditions.open(model, self.data, size=size, inputs=inputs)
        count = config.num_images or opened.wanted
        source = self._source(size)
        self._check_count(count)
        folder = EvaluationFolder(out, self._request(ckpt, model, opened, size))
        return self._measure(
            folder,
            range(count),
            SampledImages(
                model,
                opened,
                folder,
                sampler=sampler,
                guidance=guidance,
                seed=config.seed,
                batch_size=self.batch_size,
            ),
            source,
            of=str(ckpt),
        )

    def of_folder(self, images: str, out: Path) -> dict[str, Any]:
        """Measure the images of a folder."""
        if needy := [metric.names[0] for metric in self.metrics.values() if metric.inputs]:
            raise ValueError(
                f"{' and '.join(needy)} reads what images were made for, which a folder does not tell; leave it out"
            )
        size = self.config.size or self.config.data.size
        found = FolderImages(images, as_size(size) if size is not None else picture_size(find_images(images)[0]))
        count = min(len(found), self.config.num_images or len(found))
        source = self._source(found.size_of(0))
        self._check_count(count)
        folder = EvaluationFolder(out, {"images": found.fingerprint})
        return self._measure(folder, range(count), FoundImages(found), source, of=images)

    def _measure(
        self,
        folder: EvaluationFolder,
        numbers: range,
        images: MeasuredImages,
        source: ReferenceSource | None,
        *,
        of: str,
    ) -> dict[str, Any]:
        """Measure this process's share; return the results, on processes after the first without scores."""
        folder.check()
        parts = parts_of(len(numbers))
        with folder.open(self.place):
            own = self.place.share(parts)
            with tqdm(total=sum(map(len, own)), desc="images", unit="image", disable=self.place.rank > 0) as bar:
                for part in own:
                    self._measure_part(folder, part, images)
                    bar.update(len(part))
            references = self._references(source)
            results = {
                "of": of,
                "protocol": self.protocol.name,
                "count": len(numbers),
                "reference": "nothing" if source is None else source.name,
                "published": self.protocol.published,
                "source": self.protocol.source,
                "doubts": [
                    doubt for metric in self.metrics.values() if (doubt := metric.doubt(len(numbers))) is not None
                ],
                "request": folder.request,
                "scores": {},
            }
            if self.place.rank:
                return results
            for doubt in results["doubts"]:
                log.warning(doubt)
            for name, suite in self.suites.items():
                wait_for(lambda part, name=name: folder.read_part(name, part) is not None, parts)  # type: ignore[misc]
                suite.reset()
                for part in parts:
                    suite.merge(folder.read_part(name, part) or {})
            found = {name: suite.compute(references) for name, suite in self.suites.items()}
            order = [name for metric in self.metrics.values() for name in metric.names]
            scores = {name: value for scores in found.values() for name, value in scores.items()}
            results["scores"] = {name: scores[name] for name in order}
            shown = [images.read([number])[0] for number in numbers[:SHOWN]]
            grid(stack_padded(shown, shown[0].shape[1:])).save(folder.path / GRID)
            return write_results(folder.path, results)

    def _measure_part(self, folder: EvaluationFolder, part: range, images: MeasuredImages) -> None:
        """Make what is missing of a part, and measure what was not measured yet."""
        missing = {name: suite for name, suite in self.suites.items() if folder.read_part(name, part) is None}
        images.make(part)
        for suite in missing.values():
            suite.to(self.device)
            suite.reset()
        for numbers in of_one_size(part, images.size_of, self.batch_size) if missing else ():
            batch = images.read(numbers).to(self.device)
            fields = images.fields(numbers) if any(suite.inputs for suite in missing.values()) else {}
            for suite in missing.values():
                suite.update(batch, fields, numbers)
        for name, suite in missing.items():
            folder.write_part(name, part, suite.state())

    def _references(self, source: ReferenceSource | None) -> dict[str, Reference]:
        """Return what is known of real images, by the signature of the network, on the first process."""
        references: dict[str, Reference] = {}
        for suite in self.suites.values():
            for signature, kept in suite.real_features.items():
                assert source is not None
                extractor = suite.extractors[signature].to(self.device)
                found = source.reference(extractor, kept, device=self.device, place=self.place)
                if found is not None:
                    references[signature] = found
        return references

    def _source(self, size: Size) -> ReferenceSource | None:
        """Return the real images that metrics compare with; None where none does."""
        if not any(suite.real_features for suite in self.suites.values()):
            return None
        reference = self.config.reference
        needs_data = reference in (None, "train") and (self.run is not None or self.config.data.val is not None)
        return reference_source(
            reference,
            self.data() if needs_data else None,
            size,
            cache=Path(self.config.cache),
            batch_size=self.batch_size,
        )

    def _check_count(self, count: int) -> None:
        for metric in self.metrics.values():
            if count < metric.least_images:
                raise ValueError(
                    f"{metric.names[0]} needs at least {metric.least_images} images, but there are {count}; set num_images, or "
                    "choose another metric"
                )

    def _metrics(self) -> dict[str, Metric]:
        """Return the metrics of the command, of the run, or those that need no download."""
        found: dict[str, Metric]
        if self.config.get("metric") is None and self.run is not None and self.run.get("metric"):
            found = build_trusted(self.run["metric"], self.packages)
        else:
            found = build(self.config.get("metric") or offline_metric())
        return found

    def _suites(self) -> dict[str, MetricSuite]:
        """Return what measures images, by a name for what it keeps; metrics of the same features share them."""
        groups: dict[str, list[Metric]] = {}
        settings = (
            self.config.get("metric") if self.config.get("metric") is not None else (self.run or {}).get("metric") or {}
        )
        for name, metric in self.metrics.items():
            if isinstance(metric, FeatureMetric):
                groups.setdefault(f"features-{metric.extractor.signature}", []).append(metric)
            else:
                identity = json.dumps(resolved(settings[name]), sort_keys=True)
                groups[f"{name}-{hashlib.sha256(identity.encode()).hexdigest()[:8]}"] = [metric]
        return {name: MetricSuite(group) for name, group in groups.items()}

    def _request(self, ckpt: str, model: LatentDiffusion, opened: OpenConditions, size: Size) -> dict[str, Any]:
        """Return the plain values on which images depend."""
        own, _ = checkpoint.read(checkpoint.find(ckpt))
        return {
            "model": weights_hash(json.dumps(own, sort_keys=True), model.state_dict()),
            "sampler": own["sampler"] if self.config.get("sampler") is None else resolved(self.config.get("sampler")),
            "guidance": own["guidance"]
            if self.config.get("guidance") is None
            else resolved(self.config.get("guidance")),
            "conditions": opened.fingerprint,
            "seed": self.config.seed,
            "size": list(size),
        }
