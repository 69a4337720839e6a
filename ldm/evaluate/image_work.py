"""Making and measuring images, part by part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from ldm.batch import of_one_size
from ldm.evaluate.folder import EvaluationFolder
from ldm.evaluate.measured_images import MeasuredImages
from ldm.evaluate.part_work import Measured, PartWork
from ldm.evaluate.processes import Place
from ldm.metric.suite import MetricSuite

READ = "read"
"""The tensor of a part with the numbers of its images that could be read."""


class ImageWork(PartWork):
    """Makes images, where they are made here, and measures them by metrics.

    Args:
        folder: See `PartWork`; so are place and count.
        images: The images.
        suites: The suites that measure them, by a name for what each one keeps.
        device: Where networks compute.
        batch_size: Images at once.

    Attributes:
        read: The numbers of the images that could be read, once they are merged.
    """

    def __init__(
        self,
        folder: EvaluationFolder,
        place: Place,
        count: int,
        images: MeasuredImages,
        suites: Mapping[str, MetricSuite],
        *,
        device: torch.device,
        batch_size: int,
    ) -> None:
        super().__init__(folder, place, count, description="images")
        self.images = images
        self.suites = suites
        self.device = device
        self.batch_size = batch_size
        self.read: list[int] = []

    @property
    def stores(self) -> Sequence[str]:
        """See `PartWork.stores`."""
        return list(self.suites)

    def content_of(self, part: Sequence[int]) -> str:
        """See `PartWork.content_of`."""
        return self.images.content_of(part)

    def is_made(self, part: Sequence[int]) -> bool:
        """See `PartWork.is_made`."""
        return self.images.is_made(part)

    def measure(self, part: Sequence[int], stores: Sequence[str]) -> Measured:
        """See `PartWork.measure`; images that are missing are made first."""
        self.images.make(part)
        suites = {name: self.suites[name] for name in stores}
        for suite in suites.values():
            suite.to(self.device)
            suite.reset()
        read: list[int] = []
        for numbers in of_one_size(part, self.images.size_of, self.batch_size) if suites else ():
            found = self.images.read(numbers)
            if not found.numbers:
                continue
            read += found.numbers
            batch = found.images.to(self.device)
            fields = self.images.fields(found.numbers) if any(suite.inputs for suite in suites.values()) else {}
            for suite in suites.values():
                suite.update(batch, fields, found.numbers)
        return {name: {**suite.state(), READ: torch.tensor(sorted(read))} for name, suite in suites.items()}

    def merge(self) -> int:
        """See `PartWork.merge`; the suites get what was measured."""
        for name, suite in self.suites.items():
            suite.reset()
            self.read = []
            for found in self.collect(name):
                suite.merge(found)
                self.read += found[READ].tolist()
        return len(self.read)
