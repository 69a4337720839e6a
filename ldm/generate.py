"""Sampling a checkpoint into a folder: what `sample.py` does."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from PIL import Image
from torch import Tensor
from tqdm.auto import tqdm

from ldm.model import LatentDiffusion
from ldm.picture import grid, to_picture, to_tensor
from ldm.sampler.base import Sampler
from ldm.sampler.guidance import Guidance

RECORD = "samples.jsonl"
GRID_IMAGES = 100


@dataclass(frozen=True)
class Order:
    """One image to be made."""

    file: str
    prompt: str
    seed: int


def orders(prompts: Sequence[str], n: int, seed: int) -> list[Order]:
    """n images a prompt, numbered through; image i has seed `seed + i`."""
    if n < 1:
        raise ValueError(f"n is the number of images a prompt, at least 1; got {n}")
    repeated = [prompt for prompt in prompts for _ in range(n)]
    return [Order(f"{index:05d}.png", prompt, seed + index) for index, prompt in enumerate(repeated)]


def read_prompts(prompt: str | None, prompts: str | None) -> list[str]:
    """The prompts of a command: one given outright, or one a line of a file."""
    if (prompt is None) == (prompts is None):
        raise ValueError('give one of prompt="a red heart on a white background" and prompts=FILE')
    if prompt is not None:
        return [prompt]
    lines = [line.strip() for line in Path(str(prompts)).read_text().splitlines()]
    found = [line for line in lines if line]
    if not found:
        raise ValueError(f"no prompts in {prompts}; write one a line")
    return found


def generate(
    model: LatentDiffusion,
    wanted: Sequence[Order],
    out: Path,
    *,
    sampler: Sampler,
    guidance: Guidance,
    settings: dict[str, Any],
    side: int | None = None,
    batch_size: int = 16,
) -> None:
    """Write the images, a grid of the first hundred and a record of each into a folder; share them among processes.

    Under torchrun each process makes every world-th image. What an earlier command wrote there is replaced.

    settings  of sampler and guidance, for the record
    """
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False  # the same image in any batch
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    if world > 1:
        dist.init_process_group("gloo")
    if rank == 0:
        _clear(out)
    _barrier(world)
    share = wanted[rank::world]
    with tqdm(total=len(share), desc="sampling", unit="image", disable=rank > 0) as bar:
        for start in range(0, len(share), batch_size):
            chunk = share[start : start + batch_size]
            images = model.sample(
                [order.prompt for order in chunk],
                seeds=[order.seed for order in chunk],
                sampler=sampler,
                guidance=guidance,
                side=side,
                batch_size=batch_size,
            )
            for order, image in zip(chunk, images, strict=True):
                to_picture(image).save(out / order.file)
            bar.update(len(chunk))
    _barrier(world)
    if rank == 0:
        lines = [json.dumps({**vars(order), **settings}) for order in wanted]
        (out / RECORD).write_text("\n".join(lines) + "\n")
        grid(_read([out / order.file for order in wanted[:GRID_IMAGES]])).save(out / "grid.png")
    if world > 1:
        dist.destroy_process_group()


def _clear(out: Path) -> None:
    """Remove the images that an earlier record in this folder lists, so that the folder holds what its record says."""
    out.mkdir(parents=True, exist_ok=True)
    record = out / RECORD
    if record.is_file():
        for line in record.read_text().splitlines():
            (out / Path(json.loads(line)["file"]).name).unlink(missing_ok=True)
        record.unlink()


def _read(files: Sequence[Path]) -> Tensor:
    return torch.stack([to_tensor(Image.open(file)) for file in files])


def _barrier(world: int) -> None:
    if world > 1:
        dist.barrier()
