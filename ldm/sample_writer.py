"""Writing sampled images into a folder, shared among processes."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from PIL import Image
from torch import Tensor
from tqdm.auto import tqdm

from ldm.orders import Order
from ldm.picture import grid, to_picture, to_tensor
from ldm.sample_folder import GRID, SampleFolder

GRID_IMAGES = 100


def generate(
    make: Callable[[Sequence[Order]], Tensor],
    wanted: Sequence[Order],
    folder: SampleFolder,
    *,
    settings: dict[str, Any],
    batch_size: int = 16,
) -> None:
    """Write the images, a grid of the first hundred and a record of each into a folder; share them among processes.

    Under torchrun each process makes every world-th image. What an earlier command wrote there is replaced; a folder that
    holds anything else is refused.

    make      orders -> images, which on a CPU does not depend on how orders are put together
    settings  of all images, for the record; what an order says itself goes before them

    Raises ValueError where the folder is refused, or a setting is no finite number.
    """
    # Rounding of TF32 depends on the batch.
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    own_group = world > 1 and not dist.is_initialized()
    if own_group:
        dist.init_process_group("gloo")
    share = wanted[rank::world]
    record = [_line({**order.record(), **settings, **order.record()}) for order in wanted]
    with (
        folder.lock() if rank == 0 else nullcontext(),
        tqdm(total=len(share), desc="sampling", unit="image", disable=rank > 0) as bar,
    ):
        for start in range(0, max(len(share), 1), batch_size):
            chunk = share[start : start + batch_size]
            images = make(chunk) if chunk else ()
            if start == 0:  # nothing is lost where the first images fail
                _barrier(world)
                if rank == 0:
                    folder.begin(record)
                _barrier(world)
            for order, image in zip(chunk, images, strict=True):
                to_picture(image).save(folder.path / order.file)
            bar.update(len(chunk))
        _barrier(world)
        if rank == 0:
            grid(_read([folder.path / order.file for order in wanted[:GRID_IMAGES]])).save(folder.path / GRID)
    if own_group:
        dist.destroy_process_group()


def _line(record: dict[str, Any]) -> str:
    """A line of the record. Raises ValueError where a number in it is none that JSON knows."""
    try:
        return json.dumps(record, allow_nan=False)
    except ValueError as error:
        raise ValueError(f"an option has a value that is no finite number: {record}") from error


def _read(files: Sequence[Path]) -> Tensor:
    return torch.stack([to_tensor(Image.open(file)) for file in files])


def _barrier(world: int) -> None:
    if world > 1:
        dist.barrier()
