"""Copies of shards in which each sample has the embeddings of its nearest neighbours beside it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from ldm.batch import Batch, SkippedSample, tensor_field
from ldm.data.bad_samples import BadSampleCounter
from ldm.data.dataset import ShardDataset, finish
from ldm.data.decode import Broken
from ldm.data.neighbors.database import NeighborDatabase, npy_bytes
from ldm.data.rewriting import chunks_of, left_out
from ldm.data.shards.names import StoredSample, write_shard
from ldm.pretrained.retrieval import RetrievalEncoder

ENDING = "neighbors.npy"
"""The ending of the file that is written beside each image."""


class StoredImage(NamedTuple):
    """A sample as it is copied.

    Attributes:
        key: Its name.
        files: Its files, by ending.
        row: Its row in the database; -1 where it is not there.
        levels: Its image, `(1, H, W, 3)` uint8, where its embedding is not known; else None.
    """

    key: str
    files: dict[str, bytes]
    row: int
    levels: Tensor | None


class StoredImages(Dataset[tuple[list[StoredImage], list[SkippedSample]]]):
    """Samples as they are copied, and those among them that are broken; images with known embeddings are not decoded.

    Args:
        dataset: The samples, their images at the size that the encoder takes.
        chunks: The numbers of the samples of each item.
        own: For each sample its row in the database, or -1, `(N,)`.
    """

    def __init__(self, dataset: ShardDataset, chunks: Sequence[Sequence[int]], own: NDArray[np.int64]) -> None:
        self.dataset = dataset
        self.chunks = chunks
        self.own = own

    def __len__(self) -> int:
        return len(self.chunks)

    def __getitem__(self, number: int) -> tuple[list[StoredImage], list[SkippedSample]]:
        found: list[StoredImage] = []
        skipped: list[SkippedSample] = []
        for one in self.chunks[number]:
            row, levels = int(self.own[one]), None
            if row < 0:
                batch, _ = self.dataset.exactly([one])
                skipped += batch.skipped
                if not batch.key:
                    continue
                levels = tensor_field(batch.fields, "image")
            sample = self.dataset.index[one]
            try:
                found.append(StoredImage(sample.key, self.dataset.stored(one), row, levels))
            except Broken as broken:
                skipped.append(SkippedSample(sample.shard, sample.key, broken.reason, broken.detail))
        return found, skipped


class ShardCopier:
    """Writes copies of shards with the neighbours of each sample.

    Args:
        database: Among whose images neighbours are looked for.
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
        index = dataset.index
        files = {number: out / f"{split}-{number:06d}.tar" for number in range(len(index.shards))}
        todo = [number for number, file in files.items() if not file.is_file()]
        done = Counter({"shards written": len(todo), "shards kept": len(files) - len(todo)})
        for shard in todo:
            done.update(left_out(index, shard))
        chunks = chunks_of(index, todo, self.batch_size)
        own = self._own(dataset, chunks)
        total = sum(len(numbers) for _, numbers in chunks)
        items = StoredImages(dataset, [numbers for _, numbers in chunks], own)
        loader = DataLoader(items, None, num_workers=self.workers)
        with tqdm(total=total, desc=f"neighbours of {split}", unit="image") as bar:

            def samples(
                batches: Iterable[tuple[int, tuple[list[StoredImage], list[SkippedSample]]]],
            ) -> Iterator[StoredSample]:
                for _, (images, skipped) in batches:
                    yield from self._samples(images)
                    done.update({"samples": len(images), **Counter(skip.reason for skip in skipped)})
                    bad_samples.count(len(images), skipped, total)
                    bar.update(len(images) + len(skipped))

            for shard, batches in groupby(zip((shard for shard, _ in chunks), loader), key=itemgetter(0)):
                write_shard(files[shard], samples(batches))
        return done

    def _own(self, dataset: ShardDataset, chunks: Sequence[tuple[int, range]]) -> NDArray[np.int64]:
        """Return the row of each sample in the database, `(N,)`; -1 where it is not there, or in none of the chunks."""
        own = np.full(len(dataset), -1, np.int64)
        for shard, parts in groupby(chunks, key=itemgetter(0)):
            if rows := self.database.rows_of(dataset.index.shards[shard]):
                for _, numbers in parts:
                    own[list(numbers)] = [rows.get(dataset.index[number].key, -1) for number in numbers]
        return own

    def _samples(self, images: Sequence[StoredImage]) -> Iterator[StoredSample]:
        """Yield the files of samples, their neighbours among them."""
        if not images:
            return
        own = np.array([image.row for image in images])
        queries = np.empty((len(images), self.database.width), np.float32)
        queries[own >= 0] = self.database.embeddings(own[own >= 0])
        levels = [image.levels for image in images if image.levels is not None]
        if levels:
            batch = finish(Batch([""] * len(levels), {"image": torch.cat(levels)}, []), self.device)
            queries[own < 0] = self.encoder.embed_images(tensor_field(batch.fields, "image")).cpu().numpy()
        found = self.database.nearest(queries, self.k, own).embeddings
        for image, neighbors in zip(images, found, strict=True):
            yield {"__key__": image.key, **image.files, ENDING: npy_bytes(neighbors.astype(self.dtype))}
