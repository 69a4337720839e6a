"""The base class of data modules: training batches of some kind, and validation images in order."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from itertools import islice
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from ldm.batch import Batch, Fields, Size, SkippedSample, as_size
from ldm.data.bad_samples import BadSampleCounter, missing_message
from ldm.data.buckets import Buckets
from ldm.data.dataset import Item, ShardDataset, collate, sequential
from ldm.data.declared import check_declared, look_at_moments
from ldm.data.degradations.base import Degradation
from ldm.data.fields.base import FieldReader, take_images_alone
from ldm.data.fields.choose import choose_readers
from ldm.data.fields.low_resolution import LowResolutionReader
from ldm.data.foreign_moments import ForeignMoments
from ldm.data.loader import Loader, ignore_signals
from ldm.data.masks.base import MaskGenerator
from ldm.data.option_rules import OPTIONS
from ldm.data.order.batch_sampler import spread
from ldm.data.order.shuffle import SampleRef
from ldm.data.shards.dataset_index import DatasetIndex, index_shards
from ldm.data.shards.names import copied
from ldm.data.shards.overlap import shared_message
from ldm.data.shards.shard_index import ShardSummary
from ldm.data.transforms import CaptionChoice, ImageTransform
from ldm.data.warn import warn_once
from ldm.options.rule import check_all

SAMPLES_LOOKED_AT = 1000

USUAL_FIELDS = ("caption",)
"""The fields that are read where neither an option nor a model names any."""


class DataModule(pl.LightningDataModule, ABC):
    """The base class of data modules: validation images from shards, and the common ways to load.

    Making one checks its options and writes nothing; `open` reads what is in the shards, and is called by whatever needs it.

    Args:
        size: Size of the images in pixels: one number, or height and width.
        cache: Folder for copies of remote shards, and for indexes that cannot lie beside their shards.
        caption: Where captions come from.
        fields: Names of fields, or field readers of your own, that are read beside image or latent; None: those that the model
            needs, and captions where no model says so.
        val_images: At most so many validation images, evenly spread over the shards; None: all.
        degradation: Computes the field `low_resolution` where the model needs it; None: there is no such field.
        mask: Draws the field `mask` where the model needs it and a sample has no mask of its own; None: such samples are broken.
        max_broken: Fraction of the samples that may be broken, in [0, 1].
        workers: Processes that read and decode.
        seed: The seed of everything that is random.
        buckets: None: all images have one size; else {multiple: 64, max_ratio: 2.0}: images keep about their aspect ratio, in
            training and in validation, and each batch is of one shape; see `Buckets`.
        moments: What the moments in .npy files are, which training and validation read in place of images; None: there
            are none.
    """

    def __init__(
        self,
        *,
        size: int | Sequence[int],
        cache: Path,
        caption: CaptionChoice,
        fields: Sequence[str | FieldReader] | None,
        degradation: Degradation | None,
        mask: MaskGenerator | None,
        val_images: int | None,
        max_broken: float,
        workers: int,
        seed: int,
        buckets: Mapping[str, Any] | None = None,
        moments: ForeignMoments | None = None,
    ) -> None:
        super().__init__()
        if isinstance(fields, str):
            raise ValueError(f"data.fields is a list of names, like [caption,segmentation]; got {fields!r}")
        given = {"size": size, "val_images": val_images, "max_broken": max_broken, "workers": workers, "seed": seed}
        check_all({"data": given}, OPTIONS)
        self.size = as_size(size)
        if buckets is not None:
            Buckets.check(size, **buckets)
        self.buckets = buckets
        self.foreign = moments
        self.cache = cache
        self.caption = caption
        self.degradation = degradation
        self.mask = mask
        self.readers = self.choose(USUAL_FIELDS if fields is None else fields)
        self._wanted = list(fields or ())
        self.needed = set(self._wanted)
        self.val_images = val_images
        self.workers = workers
        self.seed = seed
        self.bad_samples, self.val_bad_samples = BadSampleCounter(max_broken), BadSampleCounter(max_broken)
        self.images_per_step, self.accumulate, self.batch_size = 1, 1, 1
        self.position = 0
        self._repeated: list[Batch] = []
        self._checks: list[Callable[[Fields, Sequence[str]], None]] = []
        self._opened: ShardDataset | None = None

    def need(self, fields: Iterable[str]) -> None:
        """Read these fields, which a model needs, and no others but those that the options ask for; called before `open`.

        Raises:
            ValueError: Where there is no field of some name.
        """
        names = sorted(fields)
        self.readers = self.choose([*self._wanted, *names])
        self.needed = {*self._wanted, *names}
        self._opened = None

    def choose(self, fields: Iterable[str | FieldReader]) -> list[FieldReader]:
        """Return a reader for each of some fields, but for those that come with the image.

        Raises:
            ValueError: Where there is no field of some name, or images cannot have it.
        """
        readers = choose_readers(fields, self.caption, degradation=self.degradation, mask=self.mask)
        if self.degradation is not None and any(isinstance(reader, LowResolutionReader) for reader in readers):
            self.degradation.check_size(self.size)
        return readers

    def open(self) -> None:
        """Copy what is remote, index the shards and check what is in them; once.

        A source's shards are written first. Raises ValueError or OSError where the shards cannot serve.
        """
        if self._opened is None:
            samples, summaries = self._open_validation()
            self.open_training(summaries)
            look_at_moments(samples, self.foreign, "data.val")
            self._opened = samples

    def open_validation(self) -> ShardDataset:
        """Return the validation images, no more than `val_images`; unlike `open`, read nothing of the training shards.

        Raises ValueError or OSError where the shards cannot serve.
        """
        return self._opened if self._opened is not None else self._open_validation()[0]

    def _open_validation(self) -> tuple[ShardDataset, dict[str, ShardSummary]]:
        """Return the validation images, and name -> summary of their shards."""
        names = self.name_val()
        shards = copied(names, self.cache / "shards")
        summaries = index_shards(shards, self.cache / "index", alone=take_images_alone(self.readers))
        index = DatasetIndex(summaries, limit=self.val_images, read=self.endings)
        self.bad_samples.check_index(index)
        check_declared(index, self.foreign, "data.val")
        if index.encoding and self.foreign is None:
            raise ValueError("validation needs images, for they are what is measured; give data.val shards of images")
        transform = ImageTransform(self.size) if self.foreign is None else self.foreign.transform(self.size)
        samples = ShardDataset(index, transform, self.readers, seed=self.seed, buckets=self._chosen(index))
        return samples, dict(zip(names, index.shards))

    @property
    def endings(self) -> set[str]:
        """Endings of the files that are read beside images."""
        return {ending for reader in self.readers for ending in reader.endings}

    @property
    def val_set(self) -> ShardDataset:
        """The validation images, no more than `val_images`."""
        self.open()
        assert self._opened is not None
        return self._opened

    @abstractmethod
    def name_val(self) -> list[str]:
        """Return the names of the validation shards, which are written first where a source writes them."""

    @abstractmethod
    def open_training(self, val: Mapping[str, ShardSummary]) -> None:
        """Open the training shards.

        Args:
            val: Name of a validation shard -> its summary.
        """

    def check_sizes(self, check: Callable[[Size], None]) -> None:
        """Call a check of an image size, which may raise ValueError, for all sizes that batches may have."""
        check(self.size)
        for buckets in (self.training_buckets(), self.val_set.buckets):
            if buckets is not None:
                buckets.check_used(check)

    @abstractmethod
    def training_buckets(self) -> Buckets | None:
        """Return the buckets of the training images; None where there are none."""

    @property
    @abstractmethod
    def encoding(self) -> dict[str, str]:
        """Return the settings with which the cached latents for training were made; empty where training reads images."""

    @abstractmethod
    def samples(self, fields: Iterable[str], limit: int) -> Iterator[tuple[str, Fields]]:
        """Yield key and some fields of at most `limit` training samples, each by itself (B is 1), without decoding images."""

    @abstractmethod
    def broken(self, limit: int) -> tuple[list[SkippedSample], int]:
        """Return which of at most `limit` training samples lack a field, and how many were looked at."""

    @abstractmethod
    def check_batch(self, world: int) -> None:
        """Raise ValueError where there is too little data for the batch that was set."""

    @abstractmethod
    def training_pass(
        self, batch_size: int, *, rank: int = 0, world: int = 1, limit: int | None = None
    ) -> Iterable[Batch]:
        """Return batches of this rank's share of about `limit` training samples; None: of all."""

    @abstractmethod
    def cache_latents(self, encode: Callable[[Tensor], Tensor], batch_size: int) -> None:
        """Hold latents in memory, where asked to: batches carry the moments `(B, M, h, w)` that `encode` gives for images."""

    @property
    def fingerprint(self) -> str:
        """A name for the validation images as the metrics see them."""
        return self.fingerprint_of(self.val_set)

    def fingerprint_of(self, samples: ShardDataset) -> str:
        """Return a name for images as the metrics see them."""
        name = f"{samples.index.fingerprint}-{samples.transform!r}"
        return name if self.buckets is None else f"{name}-{sorted(self.buckets.items())}"

    def _chosen(self, index: DatasetIndex) -> Buckets | None:
        """Return the buckets of the samples of an index; None where images have one size."""
        return None if self.buckets is None else Buckets.choose(index, self.size, **self.buckets)

    def check_fields(self, limit: int = SAMPLES_LOOKED_AT) -> None:
        """Look for the fields of at most `limit` samples of each split, and say which of them are missing.

        Raises:
            ValueError: Where they are missing in more samples than may be broken.
        """
        broken, seen = self.broken(limit)
        warn_once(missing_message(broken, seen, self.readers, most=self.bad_samples.max_broken))
        self.check_samples(self.val_set, limit)

    def check_samples(self, samples: ShardDataset, limit: int = SAMPLES_LOOKED_AT) -> None:
        """Look for the fields of at most `limit` of some samples; see `check_fields`."""
        numbers = spread(len(samples), limit)
        warn_once(
            missing_message(samples.broken(numbers), len(numbers), self.readers, most=self.bad_samples.max_broken)
        )

    def warn_of_shared(self, train: list[str], val: Mapping[str, ShardSummary], digests: dict[str, list[str]]) -> None:
        """Warn about validation shards that are also trained on.

        Args:
            train: Names of the training shards.
            val: Name of a validation shard -> its summary.
            digests: Name of a training shard -> the digests that are known of it and of the shards that it was made from.
        """
        known = {name: [shard.digest] for name, shard in val.items() if shard.samples} if digests else {}
        warn_once(shared_message(train, list(val), {**known, **digests}))

    def set_batch(self, images_per_step: int, accumulate: int, world: int) -> None:
        """Choose the loaders' batch: images an optimiser step, over `accumulate` batches on each of `world` processes."""
        if images_per_step % (accumulate * world):
            raise ValueError(
                f"batch_size {images_per_step} is not a multiple of accumulate {accumulate} times {world} processes; "
                f"use a multiple of {accumulate * world}"
            )
        if len(self.val_set) < world:
            raise ValueError(f"{len(self.val_set)} validation images for {world} processes; give at least one to each")
        self.images_per_step, self.accumulate, self.position = images_per_step, accumulate, 0
        self._repeated = []
        self.batch_size = images_per_step // (accumulate * world)
        self.check_batch(world)

    def val_pass(self, batch_size: int, *, rank: int = 0, world: int = 1) -> Loader:
        """Return batches of this rank's share of the validation images, in order; with buckets, one bucket after another."""
        return self.loader(self.val_set, sequential(self.val_set, batch_size, rank=rank, world=world))

    def val_dataloader(self) -> Loader:
        """Return the batches of this rank for validation."""
        rank, world = self.place()
        return self.val_pass(self.batch_size, rank=rank, world=world)

    def first_batches(self, count: int) -> list[Batch]:
        """Return the first batches that this rank trains on, wherever training stands now."""
        position, self.position = self.position, 0
        loader = self.train_dataloader()
        self.position = position
        batches: list[Batch] = []
        while len(batches) < count:
            batches += islice(loader, count - len(batches))
        return batches

    def add_check(self, check: Callable[[Fields, Sequence[str]], None]) -> None:
        """Call a check of fields and keys, which may raise ValueError, for each batch from now on, while it is on the CPU."""
        self._checks.append(check)

    def on_before_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Return the batch, checked; with `trainer.overfit_batches=N`, one of the first N of the whole training instead."""
        count = int(self.trainer.overfit_batches) if self.trainer is not None else 0  # type: ignore[attr-defined]
        if self.trainer is not None and count and self.trainer.training:
            self._repeated = self._repeated or self.first_batches(count)
            batch = self._repeated[(self.trainer.fit_loop.total_batch_idx + 1) % count]
        for check in self._checks:
            check(batch.fields, batch.key)
        return batch

    def place(self) -> tuple[int, int]:
        """Return the rank of this process, and the number of processes."""
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer is not None else (0, 1)

    def loader(
        self, dataset: Dataset[Item], batches: Sampler[list[SampleRef]] | None = None, *, workers: int | None = None
    ) -> Loader:
        """Return batches of a data set; without a sampler, of `batch_size` of an iterable one."""
        workers = self.workers if workers is None else workers
        device = self.trainer.strategy.root_device if self.trainer is not None else torch.device("cpu")
        return Loader(
            dataset,
            batch_sampler=batches,
            batch_size=1 if batches is not None else self.batch_size,
            collate_fn=collate,
            num_workers=workers,
            pin_memory=device.type == "cuda",
            persistent_workers=workers > 0,
            worker_init_fn=ignore_signals,
            generator=torch.Generator(),  # the global one stays as it is
            bad_samples=self.val_bad_samples if dataset is self.val_set else self.bad_samples,
            device=device,
            samples=len(dataset) if isinstance(dataset, Sized) else None,
        )
