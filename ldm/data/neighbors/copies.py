"""Copies of shards in which each sample has the embeddings of its nearest neighbours beside it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ldm.batch import Batch, SkippedSample, tensor_field
from ldm.data.bad_samples import BadSampleCounter
from ldm.data.dataset import ShardDataset, finish
from ldm.data.decode import Broken
from ldm.data.neighbors.database import NeighborDatabase, npy_bytes
from ldm.data.rewriting import Piece, ShardRewriting, missing
from ldm.data.shards.names import StoredSample, write_shard
from ldm.pretrained.retrieval import RetrievalEncoder

ENDING = "neighbors.npy"
"""The ending of the file that is written beside each image."""


ROWS, IMAGES = "rows", "images"
"""Fields of copied samples: the row of each in the database, or -1; where it is -1 the image, `(1, H, W, 3)` uint8, else None."""


class StoredImages:
    """Reads samples as they are copied; images with known embeddings are not decoded.

    Args:
        dataset: The samples, their images at the size that the encoder takes.
        own: For each sample its row in the database, or -1, `(N,)`.
    """

    def __init__(self, dataset: ShardDataset, own: NDArray[np.int64]) -> None:
        self.dataset = dataset
        self.own = own

    def read(self, numbers: Sequence[int]) -> Piece:
        """Return some samples, with the fields that are named above, and all files of each, its image among them."""
        keys: list[str] = []
        rows: list[int] = []
        images: list[Tensor | None] = []
        files: list[dict[str, bytes]] = []
        skipped: list[SkippedSample] = []
        for number in numbers:
            row, image = int(self.own[number]), None
            if row < 0:
                batch, _ = self.dataset.exactly([number])
                skipped += batch.skipped
                if not batch.key:
                    continue
                image = tensor_field(batch.fields, "image")
            sample = self.dataset.index[number]
            try:
                files.append(self.dataset.stored(number))
            except Broken as broken:
                skipped.append(SkippedSample(sample.shard, sample.key, broken.reason, broken.detail))
                continue
            keys.append(sample.key)
            rows.append(row)
            images.append(image)
        return Batch(keys, {ROWS: rows, IMAGES: images}, skipped), files


class ShardCopier:
    """Writes copies of shards with the neighbours of each sample.

    Args:
        database: The database of the possible neighbours.
        encoder: Embeds images that are not in the database.
        k: The number of neighbours.
        dtype: The type of what is written, "float32" or "float16".
        batch_size: Images at once.
        workers: Processes that read and decode.
        device: The device on which the encoder computes.
    """

    def __init__(
        self,
        database: NeighborDatabase,
        encoder: RetrievalEncoder,
        *,
        k: int,
        dtype: str,
        batch_size: int,
        workers: int,
        device: torch.device,
    ) -> None:
        self.database = database
        self.encoder = encoder
        self.k = k
        self.dtype = dtype
        self.batch_size = batch_size
        self.workers = workers
        self.device = device

    def write(self, dataset: ShardDataset, out: Path, split: str, bad_samples: BadSampleCounter) -> Counter[str]:
        """Write a copy of each shard of a data set into a folder; those that are there are kept.

        Args:
            dataset: The samples, their images at the size that the encoder takes.
            out: The folder.
            split: The first part of the names of the copies, "train" or "val".
            bad_samples: Counts samples that cannot be read.

        Returns:
            The number of samples, shards written and shards kept, and of the shards written the number of what was left out,
            by the reason.
        """
        files = {number: out / f"{split}-{number:06d}.tar" for number in range(len(dataset.index.shards))}
        images = StoredImages(dataset, self._own(dataset, missing(files)))
        copying = ShardRewriting(
            dataset.index, files, images.read, self.batch_size, self.workers, bad_samples, f"neighbours of {split}"
        )
        for shard, pieces in copying:
            write_shard(files[shard], (sample for piece in pieces for sample in self._samples(*piece)))
        return copying.done

    def _own(self, dataset: ShardDataset, shards: Sequence[int]) -> NDArray[np.int64]:
        """Return the row of each sample in the database, `(N,)`; -1 where it is not there, or in none of the shards."""
        own = np.full(len(dataset), -1, np.int64)
        for shard in shards:
            if rows := self.database.rows_of(dataset.index.shards[shard]):
                for number in dataset.index.numbers_of(shard):
                    own[number] = rows.get(dataset.index[number].key, -1)
        return own

    def _samples(self, batch: Batch, files: Sequence[dict[str, bytes]]) -> Iterator[StoredSample]:
        """Yield the files of samples, their neighbours among them."""
        if not batch.key:
            return
        own = np.array(batch.fields[ROWS])
        queries = np.empty((len(own), self.database.width), np.float32)
        queries[own >= 0] = self.database.embeddings(own[own >= 0])
        levels = [image for image in batch.fields[IMAGES] if image is not None]
        if levels:
            unknown = finish(Batch([""] * len(levels), {"image": torch.cat(levels)}, []), self.device)
            queries[own < 0] = self.encoder.embed_images(tensor_field(unknown.fields, "image")).cpu().numpy()
        found = self.database.nearest(queries, self.k, own).embeddings
        for key, stored, neighbors in zip(batch.key, files, found, strict=True):
            yield {"__key__": key, **stored, ENDING: npy_bytes(neighbors.astype(self.dtype))}
