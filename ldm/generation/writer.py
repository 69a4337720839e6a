"""Writing sampled images into a folder, shared among processes."""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from itertools import groupby
from typing import Any

import torch
import torch.distributed as dist
from PIL import Image
from torch import Tensor
from tqdm.auto import tqdm

from ldm.files.picture import grid, stack_padded, to_picture, to_tensor
from ldm.files.whole import written_whole
from ldm.generation.folder import GRID, SampleFolder
from ldm.generation.request import SampleRequest
from ldm.pretrained.precision import without_tf32

log = logging.getLogger(__name__)

GRID_IMAGES = 100


def generate(
    make: Callable[[Sequence[SampleRequest]], Tensor],
    requests: Sequence[SampleRequest],
    folder: SampleFolder,
    *,
    condition_pictures: Callable[[SampleRequest], Tensor],
    settings: dict[str, Any],
    batch_size: int = 16,
) -> None:
    """Write the images, a grid of the first hundred and a record of each into a folder; share them among processes.

    Under torchrun each process makes every world-th image. What an earlier command wrote there is replaced; a folder that
    holds anything else is refused.

    Args:
        make: Makes the images of requests of one size, which on a CPU do not depend on how requests are put together.
        requests: The images to be made.
        folder: Where they are written.
        condition_pictures: Returns the conditions of an image as pictures, `(3, K * H, W)` in [-1, 1], for the grid.
        settings: Options of all images, for the record; those that a request has itself go before them.
        batch_size: Images at once.

    Raises:
        ValueError: Where the folder is refused, or a setting is no finite number.
    """
    without_tf32()
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    own_group = world > 1 and not dist.is_initialized()
    if own_group:
        dist.init_process_group("gloo")
    own = requests[rank::world]
    record = [_line({**request.record(), **settings, **request.record()}) for request in requests]
    with (
        folder.lock() if rank == 0 else nullcontext(),
        tqdm(total=len(own), desc="sampling", unit="image", disable=rank > 0) as bar,
    ):
        try:
            for number, chunk in enumerate(batches(own, batch_size) if own else [()]):
                images = make(chunk) if chunk else ()
                if number == 0:  # nothing is lost where the first images fail
                    _barrier(world)
                    if rank == 0:
                        folder.begin(record)
                    _barrier(world)
                for request, image in zip(chunk, images, strict=True):
                    with written_whole(folder.path / request.file) as draft:
                        to_picture(image).save(draft, format="png")
                bar.update(len(chunk))
        except KeyboardInterrupt:
            bar.close()
            if bar.n:
                log.warning(
                    "%d of %d images are in %s; the same command makes all of them again", bar.n, len(own), folder.path
                )
            raise
        _barrier(world)
        if rank == 0:
            shown = requests[:GRID_IMAGES]
            written = [to_tensor(Image.open(folder.path / request.file)) for request in shown]
            pairs = zip(shown, written, strict=True)
            tiles = [torch.cat([condition_pictures(request), image], dim=1) for request, image in pairs]
            grid(stack_padded(tiles, (1, 1)), columns=grid_columns(shown)).save(folder.path / GRID)
    if own_group:
        dist.destroy_process_group()


def grid_columns(requests: Sequence[SampleRequest]) -> int | None:
    """Return the number of images in a row of the grid, so that images that differ only in their seed share a row.

    Args:
        requests: The images of the grid, in their order.

    Returns:
        The number; None where it does not matter.
    """
    alike = groupby(requests, key=lambda request: replace(request, file="", seed=None))
    lengths = {sum(1 for _ in group) for _, group in alike}
    if len(lengths) != 1:
        return None
    (length,) = lengths
    return None if length in (1, len(requests)) else length * max(1, round(math.sqrt(len(requests)) / length))


def batches(requests: Sequence[SampleRequest], batch_size: int) -> Iterator[Sequence[SampleRequest]]:
    """Yield requests in batches whose images have one size, those of each size in their order."""
    for _, found in groupby(sorted(requests, key=_size), key=_size):
        alike = list(found)
        for first in range(0, len(alike), batch_size):
            yield alike[first : first + batch_size]


def _size(request: SampleRequest) -> tuple[int, ...]:
    return request.size or ()


def _line(record: dict[str, Any]) -> str:
    """Return a line of the record.

    Raises:
        ValueError: Where a number in it is none that JSON knows.
    """
    try:
        return json.dumps(record, allow_nan=False)
    except ValueError as error:
        raise ValueError(f"an option has a value that is no finite number: {record}") from error


def _barrier(world: int) -> None:
    if world > 1:
        dist.barrier()
