"""Sampling a checkpoint into a folder: what `sample.py` does."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from omegaconf import DictConfig
from PIL import Image
from torch import Tensor
from tqdm.auto import tqdm

from ldm import checkpoint
from ldm.autoencoder.base import Autoencoder
from ldm.conditioner.base import Conditioner, cut_prompts
from ldm.config import build, is_rank_zero, resolved
from ldm.model import LatentDiffusion, Source
from ldm.orders import (
    GRID,
    RECORD,
    Order,
    check_images,
    check_mode,
    find_images,
    orders,
    read_image,
    read_masked,
    read_prompts,
)
from ldm.picture import grid, to_picture, to_tensor
from ldm.sampler.base import Sampler
from ldm.sampler.given import Toward
from ldm.sampler.guidance import Guidance

log = logging.getLogger(__name__)

GRID_IMAGES = 100
MOST_WARNINGS = 10
IMG2IMG_STRENGTH = 0.6

TEXTS = ("negative", "to_prompt", "init_prompt")
"""Options that the model reads, beside prompts."""


class Change(NamedTuple):
    """What is done to images that orders begin with; see Source. `mask` is a file, `init_prompt` says what they show."""

    strength: float = 1.0
    mask: str | None = None
    border: int = 4
    visits: int = 1
    init_prompt: str | None = None


class Painter:
    """Makes the images of orders by a model.

    negative  what guidance leads away from
    side      of the images; None: as in training
    change    of images to begin with
    """

    def __init__(
        self,
        model: LatentDiffusion,
        *,
        sampler: Sampler,
        guidance: Guidance,
        negative: str = "",
        side: int | None = None,
        change: Change | None = None,
    ) -> None:
        self.model = model
        self.sampler = sampler
        self.guidance = guidance
        self.negative = negative
        self.side = side or model.side
        self.change = change or Change()
        model.check_side(self.side)

    def __call__(self, wanted: Sequence[Order]) -> Tensor:
        """Images `(N, 3, side, side)` in [-1, 1]."""
        return self.model.sample(
            [order.prompt or "" for order in wanted],
            seeds=[order.seed or 0 for order in wanted],
            negative=self.negative,
            toward=_toward(wanted),
            source=self._source(wanted),
            sampler=self.sampler,
            guidance=self.guidance,
            side=self.side,
            batch_size=len(wanted),
        )

    def _source(self, wanted: Sequence[Order]) -> Source | None:
        files = [order.init for order in wanted if order.init is not None]
        if not files:
            return None
        strength, mask_file, border, visits, text = self.change
        if mask_file is None:
            images = {file: read_image(file, self.side) for file in set(files)}
            image = torch.stack([images[file] for file in files])
            return Source(image, strength, prompts=None if text is None else [text] * len(files))
        masked = {file: read_masked(file, mask_file, self.side) for file in set(files)}
        image, mask = (torch.stack(part) for part in zip(*(masked[file] for file in files), strict=True))
        return Source(image, strength, mask, border, visits)


def _toward(wanted: Sequence[Order]) -> Toward | None:
    ends = [order for order in wanted if order.share is not None]
    if not ends:
        return None
    return Toward(
        [order.to_prompt or "" for order in ends],
        [order.to_seed or 0 for order in ends],
        [order.share or 0.0 for order in ends],
    )


class Reconstruction:
    """Encodes and decodes the images of orders, cut to `side`, without noise."""

    def __init__(self, autoencoder: Autoencoder, *, side: int) -> None:
        self.autoencoder = autoencoder
        self.side = side
        autoencoder.check_side(side)

    @torch.no_grad()
    def __call__(self, wanted: Sequence[Order]) -> Tensor:
        """Images `(N, 3, side, side)` in [-1, 1]."""
        images = torch.stack([read_image(str(order.init), self.side) for order in wanted])
        posterior = self.autoencoder.encode(images.to(self.autoencoder.shift.device))
        return self.autoencoder.decode(posterior.mean).float().clamp(-1, 1).cpu()


def sample(config: DictConfig) -> list[Order]:
    """What the command does with its options; returns what was made."""
    _check(config)
    prompts = [] if config.mode == "reconstruct" else read_prompts(config.prompt, config.prompts)
    inits = find_images(config.init)
    check_images([*inits, *([config.mask] if config.mask is not None else [])], Path(config.out))
    wanted = orders(
        config.mode,
        prompts,
        config.n,
        config.seed,
        inits=inits,
        to_prompt=config.to_prompt,
        to_seed=config.to_seed,
    )
    make: Callable[[Sequence[Order]], Tensor]
    if config.mode == "reconstruct":
        make, settings = _reconstruction(config, _device(config), wanted)
    else:
        painter, settings = _painter(config, _device(config))
        _warn_of_cut(painter.model.conditioner, [*prompts, *(config[name] or "" for name in TEXTS)])
        make = painter
    settings = {"ckpt": config.ckpt, "decoder": config.decoder, "mode": config.mode, **settings}
    settings = {name: value for name, value in settings.items() if value not in (None, "")}
    generate(make, wanted, Path(config.out), settings=settings, batch_size=config.batch_size)
    return wanted


def _warn_of_cut(conditioner: Conditioner, prompts: Sequence[str]) -> None:
    """Log what is cut away from prompts that are too long, a line for each of the first few."""
    if is_rank_zero():
        for warning in islice(cut_prompts(conditioner, prompts), MOST_WARNINGS):
            log.warning(warning)


def _check(config: DictConfig) -> None:
    """Raise ValueError where options make no sense, before anything is loaded."""
    names = ("prompt", "prompts", "init", "mask", "strength", "border", "visits", "init_prompt", "to_prompt", "to_seed")
    given = {name: config[name] for name in names}
    check_mode(config.mode, negative=config.negative or None, **given)
    least = {"n": 1, "seed": -(2**63), "batch_size": 1, "side": 1, "to_seed": -(2**63), "border": 0, "visits": 1}
    for name, smallest in least.items():
        value = config[name]
        if value is not None and (not isinstance(value, int) or not smallest <= value < 2**63):
            raise ValueError(f"{name} is a whole number, at least {smallest}; got {value}")
    if Path(config.out).is_file():
        raise ValueError(f"out={config.out} is a file; give a folder for the images")


def _device(config: DictConfig) -> torch.device:
    """That of the options, or this process's GPU, or the CPU. Raises ValueError where there is none of that name."""
    found = torch.cuda.is_available()
    name = config.device or (f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if found else "cpu")
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"there is no device={name} here ({str(error).splitlines()[0]}); say device=cpu") from error
    return torch.device(name)


def _painter(config: DictConfig, device: torch.device) -> tuple[Painter, dict[str, Any]]:
    guidance: Guidance = build(config.guidance)
    if config.negative and not guidance.has_negative:
        raise ValueError(
            "negative= is what classifier-free guidance leads away from; with this guidance there is none: "
            "leave it out, or say guidance=classifier_free guidance.scale=2"
        )
    model = checkpoint.load(config.ckpt, device=device, packages=config.packages)
    if config.decoder is not None:
        model.autoencoder = checkpoint.with_decoder(model.autoencoder, config.decoder, packages=config.packages)
    options = {name: config[name] for name in Change._fields if config[name] is not None}
    change = None
    if config.mode == "img2img":
        change = Change(**{"strength": IMG2IMG_STRENGTH, **options})
    elif config.mode == "inpaint":
        change = Change(**options)
    painter = Painter(
        model,
        sampler=build(config.sampler),
        guidance=guidance,
        negative=config.negative,
        side=config.side,
        change=change,
    )
    settings = {name: resolved(config[name]) for name in ("sampler", "guidance", "negative")}
    return painter, {**settings, "side": painter.side, **(change._asdict() if change is not None else {})}


def _reconstruction(
    config: DictConfig, device: torch.device, wanted: Sequence[Order]
) -> tuple[Reconstruction, dict[str, Any]]:
    """As large as the first image, but for what the autoencoder's factor does not divide."""
    autoencoder, _ = checkpoint.load_autoencoder(config.ckpt, packages=config.packages)
    if config.decoder is not None:
        autoencoder = checkpoint.with_decoder(autoencoder, config.decoder, packages=config.packages)
    side = config.side
    if side is None:
        with Image.open(str(wanted[0].init)) as picture:
            side = max(min(picture.size) // autoencoder.factor, 1) * autoencoder.factor
    return Reconstruction(autoencoder.to(device).eval(), side=side), {"side": side}


def generate(
    make: Callable[[Sequence[Order]], Tensor],
    wanted: Sequence[Order],
    out: Path,
    *,
    settings: dict[str, Any],
    batch_size: int = 16,
) -> None:
    """Write the images, a grid of the first hundred and a record of each into a folder; share them among processes.

    Under torchrun each process makes every world-th image. What an earlier command wrote there is replaced.

    make      orders -> images, which does not depend on how orders are put together
    settings  for the record
    """
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False  # the same image in any batch
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    own_group = world > 1 and not dist.is_initialized()
    if own_group:
        dist.init_process_group("gloo")
    share = wanted[rank::world]
    with tqdm(total=len(share), desc="sampling", unit="image", disable=rank > 0) as bar:
        for start in range(0, max(len(share), 1), batch_size):
            chunk = share[start : start + batch_size]
            images = make(chunk) if chunk else ()
            if start == 0:  # nothing is lost where the first images fail
                _barrier(world)
                if rank == 0:
                    _clear(out)
                    lines = [json.dumps({**order.record(), **settings}) for order in wanted]
                    (out / RECORD).write_text("\n".join(lines) + "\n")
                _barrier(world)
            for order, image in zip(chunk, images, strict=True):
                to_picture(image).save(out / order.file)
            bar.update(len(chunk))
    _barrier(world)
    if rank == 0:
        grid(_read([out / order.file for order in wanted[:GRID_IMAGES]])).save(out / GRID)
    if own_group:
        dist.destroy_process_group()


def _clear(out: Path) -> None:
    """Remove the images that an earlier record in this folder lists, so that the folder holds what its record says."""
    out.mkdir(parents=True, exist_ok=True)
    record = out / RECORD
    if record.is_file():
        for line in record.read_text().splitlines():
            (out / Path(json.loads(line)["file"]).name).unlink(missing_ok=True)
        record.unlink()
        (out / GRID).unlink(missing_ok=True)


def _read(files: Sequence[Path]) -> Tensor:
    return torch.stack([to_tensor(Image.open(file)) for file in files])


def _barrier(world: int) -> None:
    if world > 1:
        dist.barrier()
