"""Lightning's data module over the stream."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from ldm.batch import Batch
from ldm.data.icons import Icons
from ldm.data.shards import find_shards, fingerprint, index_shards
from ldm.data.stream import BatchStream, MomentsDataset, Pass, ShardDataset
from ldm.data.transforms import CaptionChoice, ImageTransform


class CaptionedImages(pl.LightningDataModule):
    """Training and validation batches from tar shards.

    train, val     shards: a brace pattern, a glob, a path, or a list of them
    side           of the square images
    crop, flip     see ImageTransform; validation is always cropped at the centre and never flipped
    caption        where captions come from
    source         writes train and val shards at first use, instead of those two patterns
    cache_latents  encode the training images once, before stage 2; for data that never change (centre crop, no flip)
    workers        processes that read and decode
    seed           of the order and of random crops and flips
    """

    def __init__(
        self,
        *,
        side: int,
        train: str | Sequence[str] = (),
        val: str | Sequence[str] = (),
        crop: str = "center",
        flip: bool = False,
        caption: CaptionChoice | None = None,
        source: Icons | None = None,
        cache_latents: bool = False,
        workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.side = side
        self.source = source
        self.cache_latents = cache_latents
        self.workers = workers
        self.seed = seed
        transform = ImageTransform(side, crop=crop, flip=flip)  # type: ignore[arg-type]
        if cache_latents and not transform.deterministic:
            raise ValueError(
                "latents can be cached only where images never change; set data.cache_latents=false or crop=center, flip=false"
            )
        if source is not None:
            folder = source.write()
            train, val = f"{folder}/train-*.tar", f"{folder}/val-*.tar"
        caption = caption or CaptionChoice()
        self.train_images = ShardDataset(index_shards(find_shards(train)), transform, caption, seed=seed)
        self.val_images = ShardDataset(index_shards(find_shards(val)), ImageTransform(side), caption, seed=seed)
        self.moments: MomentsDataset | None = None
        self.batch_size = 1
        self.position = 0

    @property
    def fingerprint(self) -> str:
        """A name for the validation images as the metrics see them."""
        return f"{fingerprint(self.val_images.samples)}-{self.val_images.transform!r}"

    def captions(self, limit: int) -> Iterator[str]:
        """Of the training samples, at most `limit` of them, evenly spread, without decoding images."""
        step = max(1, len(self.train_images) // limit)
        return (self.train_images.caption_of(index) for index in range(0, len(self.train_images), step))

    def check_captions(self, limit: int = 100_000) -> None:
        """Read captions, of validation all and of training at most `limit`; raises ValueError where one is missing."""
        for _ in self.captions(limit):
            pass
        for number in range(len(self.val_images)):
            self.val_images.caption_of(number)

    def set_batch(self, images_per_step: int, accumulate: int, world: int) -> None:
        """Choose the loaders' batch: images an optimiser step, over `accumulate` batches on each of `world` processes."""
        if images_per_step % (accumulate * world):
            raise ValueError(
                f"batch_size {images_per_step} is not a multiple of accumulate {accumulate} times {world} processes; "
                f"use a multiple of {accumulate * world}"
            )
        if len(self.val_images) < world:
            raise ValueError(
                f"{len(self.val_images)} validation images for {world} processes; give at least one to each"
            )
        self.batch_size = images_per_step // (accumulate * world)
        self.position = 0
        BatchStream(len(self.train_images), self.batch_size, world=world)  # says so where there is too little data

    def cache(self, encode: Callable[[Tensor], Tensor], batch_size: int) -> None:
        """Let training batches carry the moments `(B, 2C, h, w)` that `encode` gives for images instead of images."""
        parts = [encode(batch.image) for batch in self.images(self.train_images, batch_size)]
        self.moments = MomentsDataset(self.train_images, torch.cat(parts))

    def images(
        self, dataset: ShardDataset, batch_size: int, *, rank: int = 0, world: int = 1, limit: int | None = None
    ) -> DataLoader:
        """Batches of one pass over a data set in order, of this rank's share; see Pass."""
        return self._loader(dataset, Pass(len(dataset), batch_size, rank=rank, world=world, limit=limit))

    def train_dataloader(self) -> DataLoader:
        dataset = self.moments or self.train_images
        rank, world = self._place()
        stream = BatchStream(
            len(dataset), self.batch_size, rank=rank, world=world, seed=self.seed, position=self.position
        )
        return self._loader(dataset, stream, workers=0 if self.moments else self.workers)

    def val_dataloader(self) -> DataLoader:
        rank, world = self._place()
        return self.images(self.val_images, self.batch_size, rank=rank, world=world)

    def state_dict(self) -> dict[str, int]:
        """How many global batches training has consumed."""
        trainer = self.trainer
        return {"position": trainer.fit_loop.epoch_loop.total_batch_idx + 1} if trainer is not None else {}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Go on where the state was taken."""
        self.position = state_dict["position"]

    def _place(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer is not None else (0, 1)

    def _loader(
        self, dataset: ShardDataset | MomentsDataset, batches: BatchStream | Pass, workers: int | None = None
    ) -> DataLoader:
        workers = self.workers if workers is None else workers
        return DataLoader(
            dataset,
            batch_sampler=batches,
            collate_fn=collate,
            num_workers=workers,
            pin_memory=torch.cuda.is_available(),
            persistent_workers=workers > 0,
        )


def collate(samples: Sequence[Batch]) -> Batch:
    """Batches of one -> a batch."""
    images = [sample.image for sample in samples if sample.image is not None]
    moments = [sample.moments for sample in samples if sample.moments is not None]
    return Batch(
        key=[key for sample in samples for key in sample.key],
        caption=[caption for sample in samples for caption in sample.caption],
        image=torch.cat(images) if images else None,
        moments=torch.cat(moments) if moments else None,
    )
