"""Ways to search a database of embeddings for the nearest ones, by faiss."""

from __future__ import annotations

import logging
import math
from abc import ABC, abstractmethod
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ldm.options.rule import COUNT, Optional, check

POINTS_PER_LIST = 256
"""The largest number of embeddings for each cluster that the clustering reads."""

FEWEST_PER_LIST = 40
"""The smallest useful number of embeddings for each cluster."""


def import_faiss() -> ModuleType:
    """Return the library faiss. Raises ImportError, which names the extra, where it is not installed."""
    logging.getLogger("faiss.loader").setLevel(logging.WARNING)  # it tells which instructions of the processor it uses
    try:
        import faiss
    except ImportError as error:
        raise ImportError(
            'the search of neighbours needs the package faiss-cpu; type pip install -e ".[neighbors]"'
        ) from error
    library: ModuleType = faiss
    return library


class NeighborSearch(ABC):
    """A way to find the embeddings with the largest inner products."""

    @abstractmethod
    def sample_size(self, count: int) -> int:
        """Return the number of embeddings, out of `count`, that `begin` needs."""

    @abstractmethod
    def begin(self, sample: NDArray[np.float32], count: int) -> Any:
        """Return an empty faiss index.

        Args:
            sample: Embeddings of length 1, `(sample_size, D)`; `(1, D)` where none is needed.
            count: The number of embeddings that will be added.

        Raises:
            ValueError: Where there are too few of them.
        """

    @abstractmethod
    def find(self, index: Any, queries: NDArray[np.float32], k: int) -> NDArray[np.int64]:
        """Return the rows `(Q, k)` of the embeddings that are nearest to queries `(Q, D)`, the nearest first.

        Args:
            index: A faiss index of at least `k` embeddings.
            queries: Embeddings of length 1.
            k: The number of neighbours.
        """


class ExactSearch(NeighborSearch):
    """Compares each query with every embedding."""

    def sample_size(self, count: int) -> int:
        """Return 0: nothing is learned from the embeddings."""
        return 0

    def begin(self, sample: NDArray[np.float32], count: int) -> Any:
        """Return an empty faiss index; see `NeighborSearch.begin`."""
        return import_faiss().IndexFlatIP(sample.shape[1])

    def find(self, index: Any, queries: NDArray[np.float32], k: int) -> NDArray[np.int64]:
        """Return the rows `(Q, k)` of the nearest embeddings; see `NeighborSearch.find`."""
        found: NDArray[np.int64] = index.search(queries, k)[1]
        return found


class InvertedFileSearch(NeighborSearch):
    """Compares each query with the embeddings of the clusters that are nearest to it: fast, but some neighbours are missed.

    Args:
        lists: Number of clusters; None: four times the square root of the number of embeddings, or as many as 40 embeddings for
            each allow.
        probes: Number of clusters that are searched for a query; more where those hold fewer embeddings than asked for.

    References:
        Sivic & Zisserman, 2003, "Video Google"; Johnson et al., 2017, arXiv:1702.08734.
    """

    def __init__(self, *, lists: int | None = None, probes: int = 32) -> None:
        check("search.lists", lists, Optional(COUNT, "four times the square root of the number of images"))
        check("search.probes", probes, COUNT)
        self.lists = lists
        self.probes = probes

    def sample_size(self, count: int) -> int:
        """Return the number of embeddings, out of `count`, that are clustered."""
        return min(count, POINTS_PER_LIST * self._lists(count))

    def begin(self, sample: NDArray[np.float32], count: int) -> Any:
        """Return an empty faiss index that has learned its clusters; see `NeighborSearch.begin`."""
        lists = self._lists(count)
        if count < lists:
            raise ValueError(
                f"search.lists={lists} clusters of a database of {count} images; give fewer, or search=exact"
            )
        faiss = import_faiss()
        width = sample.shape[1]
        index = faiss.IndexIVFFlat(faiss.IndexFlatIP(width), width, lists, faiss.METRIC_INNER_PRODUCT)
        index.cp.min_points_per_centroid = 1  # without a word: few images are searched well by few clusters
        index.train(sample)
        index.set_direct_map_type(faiss.DirectMap.Array)  # so that embeddings can be read by their rows
        return index

    def find(self, index: Any, queries: NDArray[np.float32], k: int) -> NDArray[np.int64]:
        """Return the rows `(Q, k)` of the nearest embeddings that were compared; see `NeighborSearch.find`."""
        probes = min(self.probes, index.nlist)
        found = self._probe(index, queries, k, probes)
        while probes < index.nlist and (lacking := (found < 0).any(1)).any():
            probes = min(2 * probes, index.nlist)
            found[lacking] = self._probe(index, queries[lacking], k, probes)
        return found

    def _lists(self, count: int) -> int:
        if self.lists is not None:
            return self.lists
        return max(1, min(round(4 * math.sqrt(count)), count // FEWEST_PER_LIST))

    def _probe(self, index: Any, queries: NDArray[np.float32], k: int, probes: int) -> NDArray[np.int64]:
        index.nprobe = probes
        found: NDArray[np.int64] = index.search(queries, k)[1]
        return found
