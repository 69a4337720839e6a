"""Work that the processes of an evaluation share by its folder, part by part; what is finished is kept."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence

from torch import Tensor
from tqdm.auto import tqdm

from ldm.evaluate.folder import EvaluationFolder, parts_of
from ldm.evaluate.own import Results
from ldm.evaluate.processes import Place
from ldm.evaluate.results import Findings, write_results
from ldm.files.waiting import wait_for

log = logging.getLogger(__name__)

Measured = Mapping[str, Mapping[str, Tensor]]
"""What was measured of a part: tensors by name, for each store."""


class PartWork(ABC):
    """The base class of what is measured of images, part by part.

    Args:
        folder: Where it is kept.
        place: The place of this process.
        count: Number of images.
        description: The text of the progress bar.

    Attributes:
        parts: The numbers of the images of each part.
    """

    def __init__(self, folder: EvaluationFolder, place: Place, count: int, *, description: str) -> None:
        self.folder = folder
        self.place = place
        self.parts = parts_of(count)
        self.description = description

    @property
    @abstractmethod
    def stores(self) -> Sequence[str]:
        """Names for what is measured, and how; each is kept by itself."""

    @abstractmethod
    def content_of(self, part: Sequence[int]) -> str:
        """Return a name for what is measured of a part, beside what the request of the folder says."""

    @abstractmethod
    def measure(self, part: Sequence[int], stores: Sequence[str]) -> Measured:
        """Return the measurements of a part.

        Args:
            part: Numbers of its images.
            stores: The names of the wanted measurements.
        """

    def is_made(self, part: Sequence[int]) -> bool:
        """Return whether the images of a part are there."""
        return True

    @abstractmethod
    def merge(self) -> int:
        """Merge the measurements of all processes; return the number of images that could be read."""

    def run(self, results: Results, conclude: Callable[[int], Findings]) -> Results:
        """Measure this process's share; the first process then writes what all have found.

        Args:
            results: The results without scores.
            conclude: Returns what is found, once all is merged, of a number of images that could be read.

        Returns:
            The results, on processes after the first without scores.

        Raises:
            ValueError: If no image can be read.
        """
        with self.folder.open(self.place):
            self._measure_share()
            if self.place.rank:
                return results
            count = self.merge()
            if not count:
                raise ValueError(f"none of the {results['count']} images can be read; look at them")
            findings = conclude(count)
            for warning in findings.warnings:
                log.warning(warning)
            return write_results(self.folder.path, results, findings, count=count)

    def _measure_share(self) -> None:
        """Measure this process's share, but for what is there."""
        own = self.place.share(self.parts)
        missing = {part: [name for name in self.stores if self._kept(name, part) is None] for part in own}
        missing = {part: names for part, names in missing.items() if names or not self.is_made(part)}
        if own and not missing:
            log.info("all images are there, and measured")
            return
        total = sum(map(len, own))
        there = total - sum(map(len, missing))
        with tqdm(total=total, initial=there, desc=self.description, unit="image", disable=self.place.rank > 0) as bar:
            for part, names in missing.items():
                for name, tensors in self.measure(part, names).items():
                    self.folder.write_part(name, part, self.content_of(part), tensors)
                bar.update(len(part))

    def collect(self, store: str) -> Iterator[dict[str, Tensor]]:
        """Yield the measurements of all processes, part after part; wait for parts that others measure."""
        wait_for(lambda part: self._kept(store, part) is not None, self.parts)
        for part in self.parts:
            yield self._kept(store, part) or {}

    def _kept(self, store: str, part: Sequence[int]) -> dict[str, Tensor] | None:
        return self.folder.read_part(store, part, self.content_of(part))
