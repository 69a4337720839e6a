"""A DataLoader that counts broken samples and finishes batches on the device that uses them."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from ldm.data.bad_samples import BadSampleCounter
from ldm.data.dataset import Item, finish


class Loader(DataLoader[Item]):
    """A DataLoader that counts broken samples and finishes batches.

    Args:
        dataset: Of batches, or of samples that are collated to them.
        bad_samples: Counts broken samples.
        device: On which images are made of the levels that workers read.
        samples: Number of samples that there are; None: nobody knows.
    """

    def __init__(
        self,
        dataset: Dataset[Item],
        *,
        bad_samples: BadSampleCounter,
        device: torch.device,
        samples: int | None,
        **loading: Any,
    ) -> None:
        super().__init__(dataset, **loading)
        self.bad_samples = bad_samples
        self.device = device
        self.samples = samples

    def __iter__(self) -> Any:
        for batch in super().__iter__():
            self.bad_samples.count(len(batch.key), batch.skipped, self.samples)
            yield finish(batch, self.device)
