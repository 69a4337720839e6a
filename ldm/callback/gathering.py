"""Gather the measurements of all processes on the first one."""

from __future__ import annotations

from collections.abc import Mapping

import pytorch_lightning as pl
import torch
import torch.distributed as dist
from torch import Tensor

from ldm.metric.statistics import Reference, ReferenceBuilder, Statistics
from ldm.metric.suite import MetricSuite

CHUNK = 2**20
"""The largest number of values that each process sends at once: 4 MiB in float32."""


def gather_rows(trainer: pl.Trainer, rows: Tensor) -> Tensor:
    """Return the rows of all processes on the first, in the order of the processes, and those of this one on the others.

    All processes must call it. They send their rows in chunks, so that none but the first holds more than its own and a chunk
    of each.

    Args:
        trainer: Connects the processes.
        rows: `(N, ...)`, with any N on each process and the same other lengths and type.
    """
    if trainer.world_size == 1:
        return rows
    device = trainer.strategy.root_device
    counted = [torch.zeros(1, dtype=torch.int64, device=device) for _ in range(trainer.world_size)]
    dist.all_gather(counted, torch.tensor([len(rows)], device=device))
    counts = [int(count) for count in counted]
    step = max(1, CHUNK // max(1, rows.shape[1:].numel()))
    parts: list[list[Tensor]] = [[] for _ in counts]
    for first in range(0, max(counts), step):
        chunk = rows[first : first + step]
        padded = rows.new_zeros(min(step, max(counts) - first), *rows.shape[1:], device=device)
        padded[: len(chunk)] = chunk.to(device)
        sent = [torch.empty_like(padded) for _ in counts] if trainer.is_global_zero else None
        dist.gather(padded, sent)
        for part, values, count in zip(parts, sent or (), counts, strict=False):
            part.append(values[: max(0, count - first)].to(rows.device))
    if not trainer.is_global_zero:
        return rows
    return torch.cat([rows[:0], *(chunk for part in parts for chunk in part)])


def gather_reference(trainer: pl.Trainer, builder: ReferenceBuilder) -> Reference | None:
    """Return the statistics of the real images of all processes on the first process, None on the others. All must call it.

    Raises:
        ValueError: Where there are fewer than two images.
    """
    if trainer.world_size == 1:
        return builder.reference()

    def summed(value: Tensor) -> Tensor:
        found: Tensor = trainer.strategy.reduce(value.to(trainer.strategy.root_device), reduce_op="sum")
        return found.cpu()

    count = int(summed(torch.tensor(float(builder.count), dtype=torch.float64)))
    mean = summed(builder.count * builder.mean) / max(count, 1)
    scatter = summed(builder.scatter_about(mean.to(builder.mean)))
    numbers, rows = (gather_rows(trainer, part) for part in (builder.store.numbers, builder.store.rows))
    statistics = Statistics.of_scatter(count, mean, scatter)
    if not trainer.is_global_zero:
        return None
    return Reference(statistics, rows[numbers.argsort()] if builder.kept else None)


def measure_together(trainer: pl.Trainer, suite: MetricSuite, references: Mapping[str, Reference]) -> dict[str, float]:
    """Return the scores of the images of all processes, on all of them, and forget the images. All must call it.

    Args:
        trainer: Connects the processes.
        suite: The suite that has collected on this process.
        references: Signature of an extractor -> what is known of real images, on the first process.

    Raises:
        ValueError: On all processes, where there are too few images, or a reference lacks what is needed.
    """
    state = {name: gather_rows(trainer, rows) for name, rows in suite.state().items()}
    suite.reset()
    scores: dict[str, float] = {}
    error: ValueError | None = None
    if trainer.is_global_zero:
        suite.merge(state)
        try:
            scores = suite.compute(references)
        except ValueError as mistake:
            error = mistake
        suite.reset()
    scores, error = trainer.strategy.broadcast((scores, error))
    if error is not None:
        raise error
    return scores
