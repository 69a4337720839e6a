"""A database of embedded images: made of shards, kept in a folder, and searched for the neighbours of other images."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from torch import Tensor
from tqdm.auto import tqdm

from ldm.batch import tensor_field
from ldm.data.bad_samples import BadSampleCounter
from ldm.data.dataset import ShardDataset, finish
from ldm.data.neighbors.search import NeighborSearch, import_faiss
from ldm.data.order.batch_sampler import spread
from ldm.data.rewriting import ShardRewriting
from ldm.data.shards.shard_index import ShardSummary
from ldm.files.tensors import DTYPES, write_tensors
from ldm.files.whole import written_whole
from ldm.pretrained.retrieval import RetrievalEncoder

INDEX = "index.faiss"
"""The name of the file that is searched."""

EMBEDDINGS = "embeddings-{:06d}.safetensors"
"""The name of the file with the embeddings and keys of the images of one shard."""


class EmbeddedShard(NamedTuple):
    """The embedded images of one shard.

    Attributes:
        file: The file of their embeddings and keys.
        shard: Path of the shard when it was embedded.
        digest: Its digest, which says whether another shard holds the same samples.
        images: The number of its images.
    """

    file: Path
    shard: str
    digest: str
    images: int

    @property
    def keys(self) -> list[str]:
        """The keys of the images, in their order."""
        with safe_open(self.file, "np") as content:
            ends, text = content.get_tensor("key_ends").tolist(), content.get_tensor("keys").tobytes()
        return [text[start:end].decode(errors="surrogateescape") for start, end in zip([0, *ends], ends)]

    @property
    def embeddings(self) -> NDArray[np.float32]:
        """Their embeddings `(images, D)`, of length 1 also after they were rounded."""
        with safe_open(self.file, "np") as content:
            found: NDArray[np.float32] = content.get_tensor("embeddings").astype(np.float32)
        found /= np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-12)
        return found


class Neighbors(NamedTuple):
    """The nearest neighbours of some images or texts, the nearest first, equally near ones in the order of the database.

    Attributes:
        rows: Their rows in the database, `(Q, K)`.
        similarities: Their cosines with the query, `(Q, K)`, in [-1, 1].
        embeddings: Their embeddings, `(Q, K, D)`.
    """

    rows: NDArray[np.int64]
    similarities: NDArray[np.float64]
    embeddings: NDArray[np.float32]


class NeighborDatabase:
    """Embeddings of the images of some shards, in memory, searched by cosine similarity.

    Args:
        index: A faiss index of all embeddings, in the order of the shards.
        search: The method of the search.
        shards: The embedded shards.
    """

    def __init__(self, index: Any, search: NeighborSearch, shards: Sequence[EmbeddedShard]) -> None:
        self.index = index
        self.search = search
        self.shards = list(shards)
        self._starts = np.cumsum([0, *(shard.images for shard in shards)])

    def __len__(self) -> int:
        return int(self._starts[-1])

    @property
    def width(self) -> int:
        """The length of an embedding, D."""
        return int(self.index.d)

    def embeddings(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the embeddings `(N, D)` of some rows `(N,)`."""
        if not len(rows):
            return np.empty((0, self.width), np.float32)
        found: NDArray[np.float32] = self.index.reconstruct_batch(np.ascontiguousarray(rows))
        return found

    def rows_of(self, summary: ShardSummary) -> dict[str, int]:
        """Return the row of each sample of a shard, by its key; nothing where the database does not hold such a shard.

        Shards with the same samples are the same shard, wherever they lie; of several, that at the same path is taken.
        """
        same = [number for number, shard in enumerate(self.shards) if shard.digest == summary.digest]
        if not same:
            return {}
        number = next((n for n in same if self.shards[n].shard == os.path.abspath(summary.path)), same[0])
        return {key: int(self._starts[number]) + row for row, key in enumerate(self.shards[number].keys)}

    def names_of(self, rows: Sequence[int]) -> list[tuple[str, str]]:
        """Return shard and key of the images in some rows."""
        held: dict[int, list[str]] = {}
        names = []
        for row in rows:
            number = int(np.searchsorted(self._starts, row, side="right")) - 1
            if number not in held:
                held[number] = self.shards[number].keys
            names.append((self.shards[number].shard, held[number][row - int(self._starts[number])]))
        return names

    def nearest(self, queries: NDArray[np.float32], k: int, own: NDArray[np.int64] | None = None) -> Neighbors:
        """Return the nearest neighbours of images or texts.

        Args:
            queries: Their embeddings `(Q, D)`, of length 1.
            k: The number of neighbours, K.
            own: The row of each query itself, `(Q,)`, which is none of its neighbours; -1 where it is not in the database.
                None: none of them is.

        Raises:
            ValueError: Where the database does not hold so many.
        """
        check_count(k, len(self))
        rows = self.search.find(self.index, np.ascontiguousarray(queries), k + 1 if own is not None else k)
        if own is not None:
            kept = rows != own[:, None]
            kept[kept.all(1), -1] = False  # the farthest of k + 1 others
            rows = rows[kept].reshape(len(queries), k)
        found = self.embeddings(rows.ravel()).reshape(len(queries), k, self.width)
        similarities = (found.astype(np.float64) * queries[:, None]).sum(2)
        order = np.lexsort((rows, -similarities), axis=1)
        return Neighbors(
            np.take_along_axis(rows, order, 1),
            np.take_along_axis(similarities, order, 1),
            np.take_along_axis(found, order[:, :, None], 1),
        )


def check_count(k: int, count: int) -> None:
    """Raise ValueError where a database of so many images does not hold `k` neighbours beside an image itself."""
    if k >= count:
        raise ValueError(
            f"k={k} neighbours are not to be had from a database of {count} images, of which an image itself may be one; "
            f"give k={count - 1} or less, or a larger database"
            if count > 1
            else f"the database holds {count} images; give more"
        )


def embed_shards(
    dataset: ShardDataset,
    encoder: RetrievalEncoder,
    out: Path,
    *,
    dtype: str,
    batch_size: int,
    workers: int,
    device: torch.device,
    bad_samples: BadSampleCounter,
) -> None:
    """Write a file of embeddings for each shard of a data set into a folder; those that are there are kept.

    Args:
        dataset: The images, at the size that the encoder takes.
        encoder: Embeds them.
        out: The folder.
        dtype: The type of what is written, "float32" or "float16".
        batch_size: Images at once.
        workers: Processes that read and decode.
        device: The device on which the encoder computes.
        bad_samples: Counts images that cannot be decoded; the others are embedded.
    """
    index = dataset.index
    files = {number: out / EMBEDDINGS.format(number) for number in range(len(index.shards))}
    for shard, pieces in ShardRewriting(
        index, files, dataset.exactly, batch_size, workers, bad_samples, description="embedding"
    ):
        keys: list[str] = []
        parts: list[Tensor] = []
        for batch, _ in pieces:
            if batch.key:
                keys += batch.key
                image = tensor_field(finish(batch, device).fields, "image")
                parts.append(encoder.embed_images(image).to(DTYPES[dtype]).cpu())
        _write(files[shard], keys, torch.cat(parts) if parts else torch.empty(0, 0), index.shards[shard])


def _write(file: Path, keys: Sequence[str], embeddings: Tensor, summary: ShardSummary) -> None:
    """Write the embeddings of the images of a shard."""
    names = [key.encode(errors="surrogateescape") for key in keys]
    tensors = {
        "embeddings": embeddings,
        "keys": torch.frombuffer(bytearray(b"".join(names) or b"\0"), dtype=torch.uint8),
        "key_ends": torch.tensor(np.cumsum([len(name) for name in names], dtype=np.int64)),
    }
    facts = {"shard": os.path.abspath(summary.path), "digest": summary.digest}
    write_tensors(file, tensors, {"facts": json.dumps(facts)})  # one text: several have no order in the file


def open_database(folder: Path, search: NeighborSearch) -> NeighborDatabase:
    """Return the database in a folder, whose embeddings are all written; its index is made where it is missing.

    Raises:
        ValueError: Where it holds no images, or what is in the folder does not belong together.
        OSError: Where a file cannot be read.
    """
    shards = []
    for file in sorted(folder.glob(EMBEDDINGS.format(0).replace("000000", "*"))):
        try:
            with safe_open(file, "np") as content:
                facts = json.loads(content.metadata()["facts"])
                count = content.get_slice("embeddings").get_shape()[0]
        except SafetensorError as error:
            raise ValueError(
                f"{file} is damaged ({error}); delete it and type the command again that wrote it"
            ) from error
        if count:
            shards.append(EmbeddedShard(file, facts["shard"], facts["digest"], count))
    count = sum(shard.images for shard in shards)
    if not count:
        raise ValueError(f"{folder} holds no embeddings of images; build an index with data.train=... or database=...")
    return NeighborDatabase(_open_index(folder / INDEX, search, shards, count), search, shards)


def _open_index(file: Path, search: NeighborSearch, shards: Sequence[EmbeddedShard], count: int) -> Any:
    """Return the faiss index of embedded shards, from its file, which is written where it is missing."""
    faiss = import_faiss()
    if file.is_file():
        try:
            index = faiss.read_index(str(file))
        except RuntimeError as error:
            raise ValueError(f"{file} is damaged; delete it, and it is made again") from error
        if index.ntotal != count:
            raise ValueError(f"{file} is of {index.ntotal} images, not of {count}; delete it, and it is made again")
        return index
    index = search.begin(_sample(shards, spread(count, search.sample_size(count)) or [0]), count)
    for shard in tqdm(shards, desc="indexing embeddings", unit="shard"):
        index.add(shard.embeddings)
    with written_whole(file) as draft:
        faiss.write_index(index, str(draft))
    return index


def _sample(shards: Sequence[EmbeddedShard], rows: Sequence[int]) -> NDArray[np.float32]:
    """Return the embeddings in some rows, which ascend."""
    ends = np.cumsum([shard.images for shard in shards])
    wanted = np.split(np.asarray(rows), np.searchsorted(rows, ends)[:-1])
    parts = [shard.embeddings[part - end + shard.images] for shard, part, end in zip(shards, wanted, ends) if len(part)]
    return np.concatenate(parts)


def npy_bytes(array: NDArray[Any]) -> bytes:
    """Return the bytes of a .npy file of an array."""
    data = io.BytesIO()
    np.save(data, array, allow_pickle=False)
    return data.getvalue()
