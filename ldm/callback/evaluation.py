"""Generating images for validation captions while training, and measuring them."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pytorch_lightning as pl
import torch
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor
from tqdm.auto import tqdm

from ldm.batch import of_one_size, tensor_field
from ldm.callback.checkpoints import end_if_asked
from ldm.callback.fixed_prompts import FixedPrompts
from ldm.callback.gathering import gather_reference, measure_together
from ldm.callback.measuring import Measuring
from ldm.callback.pictures import show
from ldm.conditioner.in_pictures import in_pictures
from ldm.conditioner.in_words import in_words
from ldm.data.dataset import sequential
from ldm.evaluate.conditions import OpenSamples
from ldm.files.picture import stack_padded
from ldm.generation.completion import known_parts
from ldm.guidance.base import Guidance, fields_of
from ldm.metric.base import Metric
from ldm.metric.reference_file import cached_reference, reference_file
from ldm.metric.statistics import Reference, ReferenceBuilder, evenly_spaced
from ldm.metric.suite import MetricSuite
from ldm.model import LatentDiffusion
from ldm.pretrained.extractor import Extractor
from ldm.sampler.base import Sampler

if TYPE_CHECKING:
    from ldm.data.base import DataModule

log = logging.getLogger(__name__)


class Evaluation(Measuring):
    """Generates images from the averaged weights for validation captions at each validation, by all ranks together.

    Image i is made for caption i with seed `seed + i`, whatever the number of ranks, so no noise is used twice.
    Distances over different numbers of images do not compare: those while training (num_images) with the final one.
    Reference statistics are computed once and cached under a name that says data, transform and extractor.
    With `data.buckets`, each image has the size of the bucket that the image of its caption is in, as in training, and
    reference statistics are those of the validation images at these sizes. Extractors resize what they get to one size, real
    and generated images alike, so that distances are well defined; they compare with those of other runs that have the same
    buckets and size.

    A model that fills holes is measured on whole images, with the known pixels put back.

    Images are rounded to 8 bits before they are measured, as in a file. A rank keeps the features of its images until all are
    made; then rank 0 gathers them in chunks and measures. With N images, an extractor of D features and M real images whose
    features a metric looks at, rank 0 holds about 4 D (2 N + M) + 8 D^2 bytes: 180 MB for 5000 images, Inception and M = 10,000.
    Where all images have the same features, as with a model that has just begun, scores are nan, and a warning says so.

    Args:
        metrics: Name -> metric.
        num_images: Images at validations during training, spread evenly over the validation set.
        final_images: Images when a stage ends, at most one for every validation caption; None: so many.
        batch_size: Images that a rank samples at once.
        cache: Folder for reference statistics.
        sampler: The sampler; None: the model's own.
        guidance: The guidance; None: the model's own.
        seed: Seed of the first image; far from those of `sample.py`, which begin at 0.
        grid: Images in the picture, at most.
        prompts: A file of prompts, whose images are drawn at each evaluation, beside those of validation captions; see
            `FixedPrompts`. None: none are.
        prompts_guidance: The guidance of these images, which look best at a larger scale than that with the best scores;
            None: the model's own.

    Raises:
        ValueError: If the file of prompts cannot be read, or has none.
    """

    def __init__(
        self,
        metrics: Mapping[str, Metric],
        *,
        num_images: int,
        batch_size: int,
        cache: str | Path,
        final_images: int | None = 5000,
        sampler: Sampler | None = None,
        guidance: Guidance | None = None,
        seed: int = 1_000_000,
        grid: int = 64,
        prompts: str | None = None,
        prompts_guidance: Guidance | None = None,
    ) -> None:
        self.suite = MetricSuite(metrics.values())
        self.metrics = self.suite.metrics
        self.num_images = num_images
        self.final_images = final_images
        self.batch_size = batch_size
        self.cache = Path(cache)
        self.sampler = sampler
        self.guidance = guidance
        self.seed = seed
        self.grid = grid
        self.prompts: FixedPrompts | None = None
        if prompts is not None:
            self.prompts = FixedPrompts(prompts, guidance=prompts_guidance, sampler=sampler, batch_size=batch_size)
        self.scores: dict[str, float] = {}
        self._referred: set[str] = set()
        self._references: dict[str, Reference] = {}

    @property
    def inputs(self) -> set[str]:
        """Return the names of the fields that metrics and the chosen guidance read."""
        readers = () if self.guidance is None else self.guidance.readers
        return super().inputs | {*fields_of(readers)}

    @property
    def logged(self) -> Sequence[str]:
        """Return the names of the scores."""
        return [f"eval/{name}" for metric in self.metrics for name in metric.names]

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Generate, measure and log; not after the last step of training, since the validation with all images follows."""
        last = trainer.state.fn == TrainerFn.FITTING and trainer.global_step >= trainer.max_steps
        if trainer.sanity_checking or last:
            return
        self.suite.to(pl_module.device)
        for signature, kept in self.suite.real_features.items():
            if signature not in self._referred:
                self._referred.add(signature)
                found = self._reference(trainer, self.suite.extractors[signature], kept)
                if found is not None:
                    self._references[signature] = found
        final = trainer.state.fn == TrainerFn.VALIDATING
        wanted = self.final_images if final else self.num_images
        model = pl_module.model
        assert isinstance(model, LatentDiffusion)
        self.suite.reset()
        shown, captions = self._generate(trainer, model, wanted)
        self.scores = measure_together(trainer, self.suite, self._references)
        for name, value in self.scores.items():
            pl_module.log(f"eval/{name}", value, sync_dist=True)  # equal on all ranks already
        if trainer.is_global_zero:
            show(trainer, "samples", shown, captions=captions)
            if final:
                self._warn(trainer, wanted)
        if self.prompts is not None:
            images = self.prompts.draw(trainer, model)
            if trainer.is_global_zero:
                show(trainer, "prompts", images, captions=self.prompts.captions(model.conditioner))

    def _warn(self, trainer: pl.Trainer, wanted: int | None) -> None:
        """Warn about final scores for which there are too few images."""
        total = len(trainer.datamodule.val_set)  # type: ignore[attr-defined]
        for warning in self.suite.warnings(min(wanted or total, total)):
            log.warning(warning)

    def _generate(self, trainer: pl.Trainer, model: LatentDiffusion, wanted: int | None) -> tuple[Tensor, list[str]]:
        """Generate this rank's share, in batches of one size, and give it to the metrics.

        Returns some images, evenly spread, each below the pictures of its conditions, and these conditions in words.

        All ranks go round as often, since they ask each other each time whether to end; at the end one may have nothing to do.
        """
        data: DataModule = trainer.datamodule  # type: ignore[attr-defined]
        read = {*fields_of(model.readers(self.guidance)), *self.suite.inputs}
        conditions = OpenSamples(data.val_set, data.fingerprint, data.size, read)
        count = min(wanted or conditions.period, conditions.period)
        ranks = [range(rank, count, trainer.world_size) for rank in range(trainer.world_size)]
        shares = [of_one_size(share, conditions.size_of, self.batch_size) for share in ranks]
        numbers, chunks = ranks[trainer.global_rank], shares[trainer.global_rank]
        places = set(range(len(numbers))[:: max(1, len(numbers) // self.grid)][: self.grid])
        shown: dict[int, tuple[Tensor, str]] = {}
        with tqdm(
            total=len(numbers), desc="sampling", unit="image", leave=False, disable=trainer.global_rank > 0
        ) as bar:
            for turn in range(max(map(len, shares))):
                end_if_asked(trainer)
                if turn >= len(chunks):
                    continue
                chunk = chunks[turn]
                fields = conditions.fields(chunk)
                size = conditions.size_of(chunk[0])
                images = model.sample(
                    fields,
                    seeds=[self.seed + number for number in chunk],
                    start=known_parts(model.conditioner, fields),
                    sampler=self.sampler,
                    guidance=self.guidance,
                    size=size,
                    batch_size=self.batch_size,
                )
                self.suite.update(images.to(model.autoencoder.shift.device), fields, chunk)
                for row, number in enumerate(chunk):
                    if (place := numbers.index(number)) in places:
                        one = {name: values[row : row + 1] for name, values in fields.items()}
                        pictures = in_pictures(one, 1, model.conditioner, size)[0]
                        text = in_words(one, 1, model.conditioner)[0]
                        shown[place] = torch.cat([pictures.to(images), images[row]], dim=1), text
                bar.update(len(chunk))
        found = [shown[place] for place in sorted(shown)]
        return stack_padded([tile for tile, _ in found], data.size), [text for _, text in found]

    def _reference(self, trainer: pl.Trainer, extractor: Extractor, kept: int) -> Reference | None:
        """Return the statistics of real images, from the cache or computed by all ranks; None on all ranks but 0."""
        data: DataModule = trainer.datamodule  # type: ignore[attr-defined]
        signature = extractor.signature
        path = reference_file(self.cache, data.fingerprint, signature, kept)
        found = cached_reference(path, signature) if trainer.is_global_zero else None
        if trainer.strategy.broadcast(found is not None):
            return found
        rank, world = trainer.global_rank, trainer.world_size
        builder = ReferenceBuilder(extractor, evenly_spaced(len(data.val_set), kept))
        loader = data.val_pass(self.batch_size, rank=rank, world=world)
        numbers = [
            draw.number for draws in sequential(data.val_set, self.batch_size, rank=rank, world=world) for draw in draws
        ]
        seen = 0
        for batch in tqdm(loader, desc=f"reference statistics ({signature})", disable=rank > 0, leave=False):
            images = tensor_field(batch.fields, "image")
            builder.update(images.to(trainer.strategy.root_device), numbers[seen : seen + len(images)])
            seen += len(images)
        found = gather_reference(trainer, builder)
        if found is not None:
            found.write(path, signature)
        return found
