"""The data module over indexed shards: every sample once an epoch, in a repeatable order that can be resumed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from ldm.batch import Fields, SkippedSample, tensor_field
from ldm.data.base import DataModule
from ldm.data.buckets import Buckets
from ldm.data.cached_text import TEXT_FACT, check_cached_text
from ldm.data.dataset import ShardDataset, sequential
from ldm.data.declared import check_declared, look_at_moments
from ldm.data.degradations.base import Degradation
from ldm.data.fields.base import ComputedReader, FieldReader, PlacedReader, take_images_alone
from ldm.data.fields.caption import CaptionReader
from ldm.data.fields.low_resolution import LowResolutionReader
from ldm.data.foreign_moments import ForeignMoments
from ldm.data.latents import FEATURES_FACT
from ldm.data.loader import Loader
from ldm.data.masks.base import MaskGenerator
from ldm.data.moments import MomentsDataset, Numbered
from ldm.data.option_rules import OPTIONS
from ldm.data.order.batch_sampler import (
    BucketedSteps,
    ConsecutiveSteps,
    DistributedBatchSampler,
    SequentialBatchSampler,
    StepSequence,
    spread,
)
from ldm.data.order.shuffle import MixtureOrder, SampleOrder, ShuffledOrder
from ldm.data.shards.dataset_index import DatasetIndex, index_shards
from ldm.data.shards.names import NO_TRAINING, copied, name_shards
from ldm.data.shards.shard_index import ShardSummary
from ldm.data.sources.base import DataSource, written_shards
from ldm.data.transforms import CaptionChoice, Crop, ImageTransform, LatentTransform, Transform
from ldm.data.warn import warn_once
from ldm.options.rule import POSITIVE, check, check_all


class CaptionedImages(DataModule):
    """Training and validation batches from tar shards of captioned images, or of their latents.

    Args:
        size: See `DataModule`; so are cache, caption, fields, degradation, mask, val_images, max_broken, workers, seed,
            buckets and moments.
        train: Shards: a brace pattern, a glob, a path, a URL, a command (`pipe:...`), or a list of them. For a mixture, a list
            of {shards: ..., weight: ...}, where the weight says how often each data set is drawn from. None: there are none, as
            where a model is measured.
        val: Shards, named in the same ways.
        crop: See `ImageTransform`; validation is always cropped at the centre.
        flip: See `ImageTransform`; validation is never flipped.
        filters: Conditions on training samples, like "aesthetic > 5"; see `DatasetIndex`.
        streams: The number of parts that are read side by side; see `ShuffledOrder`.
        window: The number of samples of a part that are shuffled together; see `ShuffledOrder`.
        source: Writes train and val shards when the data are opened, instead of those two patterns.
        cache_latents: Hold the training images' latents in memory; for images that never change (centre crop, no flip).
    """

    def __init__(
        self,
        *,
        size: int | Sequence[int],
        cache: str | Path,
        train: str | Sequence[str | Mapping[str, Any]] | None = None,
        val: str | Sequence[str] = (),
        crop: Crop = "center",
        flip: bool = False,
        caption: CaptionChoice | None = None,
        fields: Sequence[str | FieldReader] | None = None,
        degradation: Degradation | None = None,
        mask: MaskGenerator | None = None,
        filters: Sequence[str] = (),
        buckets: Mapping[str, Any] | None = None,
        moments: ForeignMoments | None = None,
        streams: int = 1,
        window: int = 100_000,
        source: DataSource | None = None,
        cache_latents: bool = False,
        val_images: int | None = None,
        max_broken: float = 0.01,
        workers: int = 0,
        seed: int = 0,
    ) -> None:
        given = {"crop": crop, "flip": flip, "cache_latents": cache_latents, "streams": streams, "window": window}
        check_all({"data": given}, OPTIONS)
        super().__init__(
            size=size,
            cache=Path(cache),
            caption=caption or CaptionChoice(),
            fields=fields,
            degradation=degradation,
            mask=mask,
            val_images=val_images,
            max_broken=max_broken,
            workers=workers,
            seed=seed,
            buckets=buckets,
            moments=moments,
        )
        self.source = source
        self.crop: Crop = crop
        self.flip = flip
        self.filters = list(filters)
        self.streams = streams
        self.window = window
        self.caches_latents = cache_latents
        self.moments: MomentsDataset | None = None
        groups, self.weights = _mixed(train)
        if buckets is not None and self.weights:
            raise ValueError(
                "a mixture has no buckets: how many samples of each it draws in an epoch varies; choose one"
            )
        if cache_latents and (crop != "center" or flip or buckets is not None):
            raise ValueError(
                "latents can be cached only where images never change; set data.cache_latents=false, "
                "or data.crop=center data.flip=false data.buckets=null"
            )
        if moments is not None and (crop != "center" or flip or buckets is not None or cache_latents):
            raise ValueError(
                "the images of data.moments were cut when they were encoded, and there are no mirrored ones; set "
                "data.crop=center data.flip=false data.buckets=null data.cache_latents=false"
            )
        self._val_names = name_shards(val) if source is None else []
        self._train_names = [name_shards(group) for group in groups] if source is None and train is not None else []
        self._train_set: ShardDataset | None = None
        self._order: SampleOrder | None = None

    def name_val(self) -> list[str]:
        """See `DataModule.name_val`."""
        return self._val_names if self.source is None else written_shards(self.source, "val")

    def open_training(self, val: Mapping[str, ShardSummary]) -> None:
        """See `DataModule.open_training`."""
        groups = self._train_names if self.source is None else [written_shards(self.source, "train")]
        if not groups:
            raise ValueError(NO_TRAINING)
        names = [name for group in groups for name in group]
        files = copied(names, self.cache / "shards")
        shards = index_shards(files, self.cache / "index", alone=take_images_alone(self.readers))
        index = DatasetIndex(shards, self.filters, read=self.endings)
        self.bad_samples.check_index(index)
        warn_once(index.filters_message())
        digests = {name: [shard.digest, *shard.sources] for name, shard in zip(names, shards) if shard.samples}
        self.warn_of_shared(names, val, digests)
        chosen = self._chosen(index)
        if self.degradation is not None and any(isinstance(reader, LowResolutionReader) for reader in self.readers):
            for size in chosen.sizes if chosen is not None else ():
                self.degradation.check_size(size)
        check_declared(index, self.foreign, "data.train")
        self._train_set = ShardDataset(
            index, self._transform(index), self.readers, seed=self.seed, varied=True, buckets=chosen
        )
        look_at_moments(self._train_set, self.foreign, "data.train")
        self._order = self._ordered(index, [len(group) for group in groups])

    @property
    def train_set(self) -> ShardDataset:
        """The training samples that pass the filters."""
        self.open()
        assert self._train_set is not None
        return self._train_set

    @property
    def order(self) -> SampleOrder:
        """The order in which training samples are seen."""
        self.open()
        assert self._order is not None
        return self._order

    def training_buckets(self) -> Buckets | None:
        """See `DataModule.training_buckets`."""
        return self.train_set.buckets

    @property
    def encoding(self) -> dict[str, str]:
        """Return the settings, recorded or declared, with which the latents for training were made; empty for images."""
        return self._encoding(self.train_set.index)

    def samples(self, fields: Iterable[str], limit: int) -> Iterator[tuple[str, Fields]]:
        """See `DataModule.samples`."""
        return self.train_set.keyed_fields(spread(len(self.train_set), limit), self.choose(fields))

    def broken(self, limit: int) -> tuple[list[SkippedSample], int]:
        """See `DataModule.broken`."""
        numbers = spread(len(self.train_set), limit)
        return self.train_set.broken(numbers), len(numbers)

    def check_batch(self, world: int) -> None:
        """Raise ValueError where there is too little data for the batch that was set; say which images are never seen."""
        self._stream(0, world)
        buckets = self.train_set.buckets
        if buckets is not None and (untrained := buckets.untrained(self.images_per_step)) is not None:
            warn_once(untrained)

    def training_pass(self, batch_size: int, *, rank: int = 0, world: int = 1, limit: int | None = None) -> Loader:
        """See `DataModule.training_pass`."""
        return self.loader(self.train_set, sequential(self.train_set, batch_size, rank=rank, world=world, limit=limit))

    def cache_latents(self, encode: Callable[[Tensor], Tensor], batch_size: int) -> None:
        """Encode all training images once, where that is asked for, and keep the moments in memory."""
        if self.caches_latents:
            parts = []
            for batch in self.loader(Numbered(self.train_set), SequentialBatchSampler(len(self.train_set), batch_size)):
                fields = {name: value for name, value in batch.fields.items() if name != "image"}
                fields["moments"] = encode(tensor_field(batch.fields, "image"))
                parts.append(batch._replace(fields=fields))
            self.moments = MomentsDataset(parts, self.train_set)

    def train_dataloader(self) -> Loader:
        """Return the training batches of this rank, from where training stands."""
        stream = self._stream(*self.place())
        if self.moments is not None:
            return self.loader(self.moments, stream, workers=0)
        return self.loader(self.train_set, stream)

    def state_dict(self) -> dict[str, Any]:
        """Return the number of optimiser steps whose samples training has consumed, and the shards that they came from."""
        steps = self.trainer.global_step if self.trainer is not None else self.position
        index = self.train_set.index
        return {
            "position": steps,
            "shards": index.fingerprint,
            "samples": len(index),
            "encoding": self._encoding(index),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue where the state was taken. Raises ValueError where the training shards have changed."""
        index = self.train_set.index
        if state_dict["shards"] != index.fingerprint:
            before = f"{state_dict['samples']} samples" if "samples" in state_dict else "others"
            raise ValueError(
                "the training shards, or what is in them, have changed since the checkpoint of this run was written "
                f"({before}, now {len(index)} samples in {len(index.shards)} shards), and with them the order of samples; "
                "put them back (they may lie in another folder), or choose another name= to train anew"
            )
        made = self._encoding(index)
        if (before := state_dict.get("encoding", made)) != made:
            raise ValueError(
                f"the latents were made otherwise than those of the checkpoint of this run: {before}, now {made}; declare "
                "them as before, or choose another name= to train anew"
            )
        self.position = state_dict["position"]

    def _encoding(self, index: DatasetIndex) -> dict[str, str]:
        """Return the settings, recorded or declared, with which the latents of an index were made; empty for images."""
        return index.encoding if self.foreign is None else self.foreign.encoding(self.size)

    def _stream(self, rank: int, world: int) -> DistributedBatchSampler:
        size, buckets = self.images_per_step, self.train_set.buckets
        steps: StepSequence = (
            ConsecutiveSteps(self.order, size) if buckets is None else BucketedSteps(self.order, size, buckets.chosen)
        )
        return DistributedBatchSampler(
            steps, accumulate=self.accumulate, rank=rank, world=world, position=self.position
        )

    def _ordered(self, index: DatasetIndex, groups: Sequence[int]) -> SampleOrder:
        """Return the order of the samples of a data set, or of the data sets of a mixture, each of so many shards."""
        orders: list[SampleOrder] = []
        first, start = 0, 0
        for shards in groups:
            counts = index.counts[start : start + shards]
            seed = self.seed + len(orders)
            orders.append(ShuffledOrder(counts, seed=seed, streams=self.streams, window=self.window, first=first))
            first, start = first + int(counts.sum()), start + shards
        return MixtureOrder(orders, self.weights, seed=self.seed) if self.weights else orders[0]

    def _transform(self, index: DatasetIndex) -> Transform:
        """Return the transform for images or latents, whichever the shards hold; raise ValueError where that is impossible."""
        if self.foreign is not None:
            placed = [one.name for one in self.readers if isinstance(one, (PlacedReader, ComputedReader))]
            if placed:
                raise ValueError(
                    f"{', '.join(placed)} lies on the image, and of these moments it is not known how their images were cut; "
                    "choose a conditioner that does not need it"
                )
            return self.foreign.transform(self.size)
        made = index.encoding
        if made and (self.crop != "center" or self.buckets is not None):
            raise ValueError("latents were cut when they were made; set data.crop=center and data.buckets=null")
        if made and made["size"] != str(self.size):
            raise ValueError(f"the latents were made at size {made['size']}; set data.size={made['size']}")
        if made and self.flip and made["flip"] != "true":
            raise ValueError("the latents have no flipped twins; encode with flip=true, or set data.flip=false")
        if made and self.caches_latents:
            raise ValueError("these are latents already; set data.cache_latents=false")
        computed = [one.name for one in self.readers if isinstance(one, ComputedReader) and one.needs_image]
        if made and computed:
            raise ValueError(
                f"{', '.join(computed)} is computed from images, and these are latents; give data.train shards of images"
            )
        text = bool(made.get(TEXT_FACT)) and any(reader.name == CaptionReader.name for reader in self.readers)
        if text:
            check_cached_text(made, self.caption.fields, tags_vary=self.caption.tags.active)
        if made:
            features = bool(made.get(FEATURES_FACT)) and "patch_features" in self.needed
            return LatentTransform(flip=self.flip, text=text, features=features)
        return ImageTransform(self.size, crop=self.crop, flip=self.flip)


def _mixed(
    train: str | Sequence[str | Mapping[str, Any]] | None,
) -> tuple[list[str | Sequence[str]], list[float]]:
    """Return the shards of each data set of a mixture, and the weights; without weights it is one data set."""
    parts = [train] if isinstance(train, str) else list(train or [])
    mixed = [part for part in parts if isinstance(part, Mapping)]
    if not mixed:
        return [train], []  # type: ignore[list-item]
    if len(mixed) != len(parts) or any(part.keys() != {"shards", "weight"} for part in mixed):
        raise ValueError(f"in a mixture every data set has a weight: [{{shards: ..., weight: 1}}, ...]; got {parts}")
    for part in mixed:
        check(f"weight of {part['shards']}", part["weight"], POSITIVE)
    return [part["shards"] for part in mixed], [part["weight"] for part in mixed]
