"""One evaluation of images: those that a model makes, or those of a folder."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from ldm import checkpoint
from ldm.batch import Size, as_size
from ldm.config import build, build_trusted, resolved
from ldm.data.base import DataModule
from ldm.evaluate.chosen_metrics import ChosenMetrics, check_count, check_sizes
from ldm.evaluate.conditions import Conditions, OpenConditions
from ldm.evaluate.departures import departures
from ldm.evaluate.folder import EvaluationFolder
from ldm.evaluate.image_work import ImageWork
from ldm.evaluate.images import FolderImages
from ldm.evaluate.measured_images import FoundImages, MeasuredImages, SampledImages, UnroundedImages
from ldm.evaluate.own import FOUND, GENERATED, GRID, PROGRAM, Results, check_folder
from ldm.evaluate.processes import Place
from ldm.evaluate.protocol import Protocol
from ldm.evaluate.reference import ReferenceSource, reference_source
from ldm.evaluate.results import NOTHING, Findings, new_results
from ldm.evaluate.source import COMPUTED, computed_options, data_options
from ldm.evaluate.written_statistics import check_statistics, write_measured
from ldm.files.digest import weights_hash
from ldm.files.marks import save_marked
from ldm.files.picture import grid, stack_padded
from ldm.generation.decoder import with_decoder
from ldm.guidance.base import Guidance, fields_of
from ldm.interop.lora.chosen import chosen_loras
from ldm.metric.statistics import Reference
from ldm.metric.suite import MetricSuite
from ldm.model import LatentDiffusion
from ldm.sampler.base import Sampler

SHOWN = 64
"""The largest number of images in the picture."""


class ImageEvaluation:
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
        self.device = self.place.device(config.device)
        self.chosen = ChosenMetrics(config, run, self.packages)
        self.loras = chosen_loras(config.lora, config.lora_scale)
        self.batch_size: int = config.batch_size
        self._data: DataModule | None = None

    def data(self, size: Size | None) -> DataModule:
        """Return the data module, made at the first call.

        Args:
            size: Height and width of real images, where neither the command nor the run says them; None: they are not known.
        """
        if self._data is None:
            self._data = build_trusted(self._data_options(size), self.packages)
        return self._data

    def _data_options(self, size: Size | None) -> dict[str, Any]:
        """Return the plain config of the data module; `size`: see `data`."""
        return data_options(self.config, self.run, size=size, training=self.config.reference == "train")

    def of_model(self, ckpt: str, out: Path) -> Results:
        """Generate and measure the images of a checkpoint."""
        config = self.config
        check_folder(out, GENERATED)
        model, own = checkpoint.load_with_config(ckpt, device=self.device, packages=self.packages, loras=self.loras)
        if config.decoder is not None:
            model.autoencoder = with_decoder(model.autoencoder, config.decoder, packages=self.packages)
        sampler: Sampler | None = None if config.get("sampler") is None else build(config.sampler)
        guidance: Guidance | None = None if config.get("guidance") is None else build(config.guidance)
        size = model.size if config.size is None else as_size(config.size)
        model.check_size(size)
        conditions: Conditions = build(config.conditions)
        readers = model.readers(guidance)
        opened = conditions.open(readers, lambda: self.data(model.size), size=size, inputs=self.chosen.inputs)
        source = self._source(size, of_data=model.size)
        folder = EvaluationFolder(out, GENERATED, self._request(own, model, guidance, opened, size))
        folder.check()
        count = config.num_images or opened.wanted
        opened.check(readers, count)
        images = (UnroundedImages if config.unrounded else SampledImages)(
            model,
            opened,
            folder,
            sampler=sampler,
            guidance=guidance,
            seed=config.seed,
            batch_size=self.batch_size,
        )
        return self._measure(folder, range(count), images, source, of=str(ckpt), warnings=opened.warnings(count))

    def of_folder(self, images: str, out: Path) -> Results:
        """Measure the images of a folder."""
        check_folder(out, FOUND)
        if self.chosen.inputs:
            needy = " and ".join(sorted(self.chosen.inputs))
            raise ValueError(
                f"a metric reads {needy}, for which images were made; a folder does not have it, so choose other metrics"
            )
        given = self.config.size or self.config.data.size
        found = FolderImages(images, None if given is None else as_size(given))
        count = min(len(found), self.config.num_images or len(found))
        sizes = {found.size_of(number) for number in range(count)} - {Size(0, 0)}
        warnings = []
        if len(sizes) > 1:
            warnings = [
                f"the images are of {len(sizes)} sizes, from {min(sizes)} to {max(sizes)}, and each is measured as it is; with "
                "size= all are resized and cut to one"
            ]
        size = sizes.pop() if len(sizes) == 1 else None
        source = self._source(size, of_data=size)
        folder = EvaluationFolder(out, FOUND, {"images": found.fingerprint})
        return self._measure(folder, range(count), FoundImages(found), source, of=images, warnings=warnings)

    def _measure(
        self,
        folder: EvaluationFolder,
        numbers: range,
        images: MeasuredImages,
        source: ReferenceSource | None,
        *,
        of: str,
        warnings: Sequence[str],
    ) -> Results:
        """Measure this process's share; return the results, on processes after the first without scores."""
        folder.check()
        metrics = self.chosen.build()
        check_count(metrics, len(numbers))
        suites = self.chosen.suites(metrics)
        check_statistics(self.config.statistics, suites.values())
        work = ImageWork(
            folder, self.place, len(numbers), images, suites, device=self.device, batch_size=self.batch_size
        )
        sizes = {images.size_of(number) for number in numbers} - {Size(0, 0)}
        check_sizes(metrics, sizes)
        reference = NOTHING if source is None else source.name
        results = new_results(self.protocol, of, folder.request, reference=reference, count=len(numbers), sizes=sizes)
        references = self._references(source, suites)

        def conclude(count: int) -> Findings:
            scores: dict[str, float] = {}
            for suite in suites.values():
                scores |= suite.compute(references)
            if self.config.statistics is not None:
                write_measured(self.config.statistics, suites.values())
            shown = work.read[:SHOWN]
            pictures = [
                torch.cat([images.condition_pictures(one), images.read([one]).images[0]], dim=1) for one in shown
            ]
            save_marked(grid(stack_padded(pictures, pictures[0].shape[1:])), folder.path / GRID, PROGRAM)
            name, options, sampled = self.protocol.name, resolved(self.config), isinstance(images, SampledImages)
            return Findings(
                {name: scores[name] for metric in metrics.values() for name in metric.names},
                [*warnings, *(warning for one in metrics.values() if (warning := one.warning(count)) is not None)],
                [reason for suite in suites.values() for reason in suite.collapsed],
                departures(name, options, count=count, sampled=sampled) if self.protocol.published else [],
                _conditions(images, shown),
            )

        return work.run(results, conclude)

    def _references(self, source: ReferenceSource | None, suites: Mapping[str, MetricSuite]) -> dict[str, Reference]:
        """Return the statistics of real images, by the signature of the network; only on the first process."""
        references: dict[str, Reference] = {}
        for suite in suites.values():
            for signature, kept in suite.real_features.items():
                assert source is not None
                extractor = suite.extractors[signature].to(self.device)
                found = source.reference(extractor, kept, device=self.device, place=self.place)
                if found is not None:
                    references[signature] = found
            if not self.place.rank:
                suite.check_references(references)
        return references

    def _source(self, size: Size | None, *, of_data: Size | None) -> ReferenceSource | None:
        """Return the real images that metrics compare with; None where none does.

        Args:
            size: Height and width of the images that are measured; None: they have several.
            of_data: See `data`.
        """
        if not self.chosen.needs_reference:
            return None
        reference = self.config.reference
        needs_data = reference in (None, "train") and (self.run is not None or self.config.data.val is not None)
        return reference_source(
            reference,
            self.data(of_data) if needs_data else None,
            size,
            cache=Path(self.config.cache),
            batch_size=self.batch_size,
        )

    def _request(
        self,
        own: Mapping[str, Any],
        model: LatentDiffusion,
        guidance: Guidance | None,
        opened: OpenConditions,
        size: Size,
    ) -> dict[str, Any]:
        """Return the plain values on which images depend, of a model and its own config."""
        sampler, chosen = self.config.get("sampler"), self.config.get("guidance")
        guiding = [weights_hash(network.state_dict().items()) for network in (guidance or model.guidance).networks]
        read = {*fields_of(model.readers(guidance)), *self.chosen.inputs}
        computed = computed_options(read, self._data_options(model.size)) if read & COMPUTED.keys() else {}
        return {
            "model": weights_hash(model.state_dict().items(), json.dumps(own, sort_keys=True)),
            "sampler": own["sampler"] if sampler is None else resolved(sampler),
            "guidance": own["guidance"] if chosen is None else resolved(chosen),
            **({"guided_by": guiding} if guiding else {}),
            "conditions": opened.fingerprint,
            **computed,
            **({"unrounded": True} if self.config.unrounded else {}),
            **({"lora": [one.identity() for one in self.loras]} if self.loras else {}),
            "seed": self.config.seed,
            "size": list(size),
        }


def _conditions(images: MeasuredImages, numbers: Sequence[int]) -> list[str]:
    """Return a line for each image that describes its conditions; empty where they cannot be written in words."""
    found = [images.in_words(number) for number in numbers]
    return found if any(found) else []
