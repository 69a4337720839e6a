"""Measuring the validation loss of models and of checkpoints."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig
from torch import Tensor

from ldm import checkpoint
from ldm.autoencoder.derived import underlying_fields
from ldm.batch import Size, as_size, of_one_size
from ldm.checkpoint import MODEL_FILE
from ldm.config import build_trusted, class_of, resolved
from ldm.data.base import DataModule
from ldm.data.dataset import ShardDataset, finish
from ldm.data.order.batch_sampler import spread
from ldm.data.value_checks import TRAINED, check_used
from ldm.evaluate.conditions import SampleConditions
from ldm.evaluate.folder import EvaluationFolder
from ldm.evaluate.own import LOSS, Results, check_folder
from ldm.evaluate.part_work import Measured, PartWork
from ldm.evaluate.processes import Place
from ldm.evaluate.protocol import Protocol, begin_measuring, refuse_options
from ldm.evaluate.results import NOTHING, Findings, new_results
from ldm.evaluate.several import measure_models
from ldm.evaluate.source import computed_options, data_options, run_config
from ldm.evaluate.validation_loss import ValidationLoss
from ldm.files.digest import weights_hash
from ldm.interop.lora.chosen import chosen_loras
from ldm.model import LatentDiffusion
from ldm.options.rule import COUNT, SIZE, Optional, Rule, check_all

log = logging.getLogger(__name__)

OPTIONS: dict[str, Rule] = {
    "batch_size": COUNT,
    "data.size": Optional(SIZE, "as in training"),
    "num_images": Optional(COUNT, "all"),
    "data.val_images": Optional(COUNT, "as in training"),
}
"""The rules of the command's options."""

FOREIGN = (
    "unrounded",
    "images",
    "size",
    "reference",
    "statistics",
    "decoder",
    "sampler",
    "guidance",
    "metric",
    "perceptual",
)
"""Options that apply only to images that are generated or reconstructed."""

STORE, SUMS = "loss", "sums"
"""The store of what is measured, and its tensor: sums of errors by noise level, then the numbers of images."""


class LossWork(PartWork):
    """Measures the validation loss of samples.

    Args:
        folder: See `PartWork`; so is place.
        samples: The samples.
        numbers: The places of those that are measured.
        size: Height and width of images whose samples have no bucket.
        model: The model, on its device.
        batch_size: Images at once.
    """

    def __init__(
        self,
        folder: EvaluationFolder,
        place: Place,
        samples: ShardDataset,
        numbers: Sequence[int],
        size: Size,
        model: LatentDiffusion,
        *,
        batch_size: int,
    ) -> None:
        super().__init__(folder, place, len(numbers), description="validation loss")
        self.samples = samples
        self.numbers = numbers
        self.size = size
        self.model = model
        self.batch_size = batch_size
        self.loss = ValidationLoss()

    @property
    def stores(self) -> Sequence[str]:
        """See `PartWork.stores`."""
        return [STORE]

    def content_of(self, part: Sequence[int]) -> str:
        """See `PartWork.content_of`."""
        request = self.folder.request
        return f"{request['model']} {request['samples']} {[self.numbers[place] for place in part]}"

    def size_of(self, number: int) -> Size:
        """Return height and width of the image of a sample."""
        return self.samples.size_of(number) or self.size

    def measure(self, part: Sequence[int], stores: Sequence[str]) -> Measured:
        """See `PartWork.measure`."""
        device = self.model.autoencoder.shift.device
        loss = ValidationLoss().to(device)
        for numbers in of_one_size([self.numbers[place] for place in part], self.size_of, self.batch_size):
            found, _ = self.samples.exactly(numbers)
            for broken in found.skipped:
                log.warning("left out: %r in %s: %s", broken.key, broken.shard, broken.reason)
            if found.key:
                self.model.conditioner.check(found.fields, found.key, advice=TRAINED)
                batch = finish(found, device)
                fields = {
                    name: value.to(device) if isinstance(value, Tensor) else value
                    for name, value in batch.fields.items()
                }
                loss.measure(self.model, batch._replace(fields=fields))
        return {STORE: {SUMS: loss.compute().cpu()}}

    def merge(self) -> int:
        """See `PartWork.merge`."""
        count = 0
        self.loss.reset()
        for found in self.collect(STORE):
            self.loss.update(found[SUMS])
            count += int(found[SUMS].view(2, -1)[1].sum())
        return count

    def scores(self) -> dict[str, float]:
        """Return the scores, once all is merged."""
        return {name: float(value) for name, value in self.loss.scores().items()}


class LossProtocol(Protocol):
    """Measures the validation loss of latent diffusion models, as training does; see `ValidationLoss`.

    Args:
        name: See `Protocol`; so are published and source.
    """

    def run(self, config: DictConfig) -> list[Results]:
        """See `Protocol.run`."""
        check_all(resolved(config), OPTIONS)
        if (config.ckpt is None) == (config.ckpts is None):
            raise ValueError(
                "give one of ckpt=RUN and ckpts='runs/x/**/step-*.ckpt', whose validation loss is measured"
            )
        refuse_options(config, FOREIGN, "the validation loss, for which no image is made")
        if class_of(config.conditions) is not SampleConditions:
            raise ValueError("the validation loss is that of validation samples; leave conditions= out")
        begin_measuring(config)
        return measure_models(
            config, LOSS, LatentDiffusion, (MODEL_FILE,), lambda ckpt, out: self._of_one(config, ckpt, out)
        )

    def _of_one(self, config: DictConfig, ckpt: str, out: Path) -> Results:
        """Measure one model, and write its scores into a folder."""
        place, packages = Place.here(), list(config.packages)
        check_folder(out, LOSS)
        loras, device = chosen_loras(config.lora, config.lora_scale), place.device(config.device)
        model, own = checkpoint.load_with_config(ckpt, device=device, packages=packages, loras=loras)
        options = data_options(config, run_config(ckpt), size=model.size, training=False)
        data: DataModule = build_trusted(options, packages)
        wanted = underlying_fields(model.conditioner.inputs)
        data.need(wanted)
        model.check_size(as_size(data.size))
        samples = data.open_validation()
        data.check_samples(samples)
        computed = computed_options(wanted, options)
        request = {
            "model": weights_hash(model.state_dict().items(), json.dumps(own, sort_keys=True)),
            "samples": f"{sorted(wanted)} {data.fingerprint_of(samples)}" + (f" {computed}" if computed else ""),
            **({"lora": [one.identity() for one in loras]} if loras else {}),
        }
        numbers = spread(len(samples), config.num_images or len(samples))
        folder = EvaluationFolder(out, LOSS, request)
        folder.check()
        check_used(model.conditioner, samples, numbers)
        work = LossWork(folder, place, samples, numbers, data.size, model, batch_size=config.batch_size)
        sizes = set(map(work.size_of, numbers))
        results = new_results(self, str(ckpt), request, reference=NOTHING, count=len(numbers), sizes=sizes)
        return work.run(results, lambda _: Findings(work.scores()))
