"""A DataLoader that counts broken samples and finishes batches on the device that uses them."""

from __future__ import annotations

import signal
from time import perf_counter
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from ldm.data.bad_samples import BadSampleCounter
from ldm.data.dataset import Item, finish


class Loader(DataLoader[Item]):
    """A DataLoader that counts broken samples and finishes batches.

    Args:
        dataset: A data set of batches, or of samples that are collated to them.
        bad_samples: Counts broken samples.
        device: The device on which images are made from the levels that workers read.
        samples: Number of samples that there are; None: nobody knows.

    Attributes:
        waited: Seconds that this process has waited for batches, since the loader was made.
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
        self.waited = 0.0

    def __iter__(self) -> Any:
        asked = perf_counter()
        for batch in super().__iter__():
            self.bad_samples.count(len(batch.key), batch.skipped, self.samples)
            finished = finish(batch, self.device)
            self.waited += perf_counter() - asked
            yield finished
            asked = perf_counter()


def ignore_signals(worker: int) -> None:
    """Ignore signals that are sent to a whole group of processes, since they are meant for the one that trains."""
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
