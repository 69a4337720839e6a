"""Sampling a checkpoint into a folder: what `sample.py` does."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from omegaconf import DictConfig
from PIL import Image
from torch import Tensor
from tqdm.auto import tqdm

from ldm import checkpoint
from ldm.config import build, resolved
from ldm.options import COUNT, FRACTION, SEED, Optional, Whole, check_all
from ldm.orders import Order, check_images, check_mode, find_images, orders
from ldm.painter import Change, Painter, Reconstruction
from ldm.picture import grid, to_picture, to_tensor
from ldm.prompts import negatives, read_prompts
from ldm.sample_folder import GRID, SampleFolder
from ldm.sampler.base import Sampler
from ldm.sampler.guidance import Guidance
from ldm.text import clean_text

GRID_IMAGES = 100
IMG2IMG_STRENGTH = 0.6

RULES = {
    "n": COUNT,
    "seed": SEED,
    "batch_size": COUNT,
    "side": Optional(COUNT, "as in training"),
    "strength": Optional(FRACTION),
    "border": Optional(Whole(0)),
    "visits": Optional(COUNT),
    "to_seed": Optional(SEED, "the same seed"),
}
"""Option of `sample.py` -> its values. Those of sampler, grid and guidance are checked by their classes."""


def sample(config: DictConfig) -> list[Order]:
    """What the command does with its options; returns what was made."""
    _check(config)
    prompts = [] if config.mode == "reconstruct" else read_prompts(config.prompt, config.prompts)
    inits = find_images(config.init)
    SampleFolder(config.out).check(_inputs(config, inits))
    check_images(inits, config.mask)
    wanted = orders(
        config.mode,
        prompts,
        config.n,
        config.seed,
        inits=inits,
        to_prompt=None if config.to_prompt is None else clean_text(config.to_prompt),
        to_seed=config.to_seed,
    )
    device = _device(config)
    make: Callable[[Sequence[Order]], Tensor]
    if config.mode == "reconstruct":
        make, settings = _reconstruction(config, device, wanted)
    else:
        make, settings = _painter(config, device, used=list(negatives(prompts, clean_text(config.negative))))
        make.check_masks(inits)
    settings = {"ckpt": config.ckpt, "decoder": config.decoder, "mode": config.mode, **settings}
    settings = {name: value for name, value in settings.items() if value not in (None, "")}
    generate(make, wanted, Path(config.out), settings=settings, batch_size=config.batch_size)
    return wanted


def _check(config: DictConfig) -> None:
    """Raise ValueError where options make no sense, before anything is loaded."""
    names = ("prompt", "prompts", "init", "mask", "strength", "border", "visits", "init_prompt", "to_prompt", "to_seed")
    given = {name: config[name] for name in names}
    check_mode(config.mode, negative=config.negative or None, **given)
    check_all({name: config[name] for name in RULES}, RULES)
    for name in ("ckpt", "out"):
        if not config[name]:
            raise ValueError(f"the option {name} has no value; type {name}=VALUE, or --help for an example")
    if isinstance(config.packages, str):
        raise ValueError(f"packages is a list; say packages=[ldm,{config.packages}]")


def _inputs(config: DictConfig, inits: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Option and path of each file that is read."""
    yield from (("init", file) for file in inits)
    for name in ("mask", "prompts", "ckpt", "decoder"):
        if config[name] is not None:
            yield name, config[name]
    yield from ((f"guidance{name}", text) for name, text in _texts(resolved(config.guidance)) if Path(text).exists())


def _texts(node: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Name and value of each text in a plain config."""
    if isinstance(node, dict):
        for key, value in node.items():
            yield from _texts(value, f"{name}.{key}")
    elif isinstance(node, str):
        yield name, node


def _device(config: DictConfig) -> torch.device:
    """That of the options, or this process's GPU, or the CPU. Raises ValueError where there is none of that name."""
    found = torch.cuda.is_available()
    name = str(config.device or (f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if found else "cpu"))
    try:
        torch.zeros(1, device=name).tolist()  # some devices, like meta, hold no numbers
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"there is no device={name} here ({reason}); say device=cpu") from error
    return torch.device(name)


def _painter(config: DictConfig, device: torch.device, *, used: Sequence[str]) -> tuple[Painter, dict[str, Any]]:
    """The painter that the options ask for, and its settings for the record; `used` are the negative prompts."""
    checkpoint.find(config.ckpt)
    sampler: Sampler = build(config.sampler)
    guidance: Guidance = build(config.guidance)
    if used and not guidance.has_negative:
        raise ValueError(
            "negative= is what classifier-free guidance leads away from; with this guidance there is none: "
            "leave it out, or say guidance=classifier_free guidance.scale=2"
        )
    model = checkpoint.load(config.ckpt, device=device, packages=config.packages)
    if config.decoder is not None:
        model.autoencoder = checkpoint.with_decoder(model.autoencoder, config.decoder, packages=config.packages)
    options = {name: config[name] for name in Change._fields if config[name] is not None}
    if "init_prompt" in options:
        options["init_prompt"] = clean_text(options["init_prompt"])
    change = None
    if config.mode == "img2img":
        change = Change(**{"strength": IMG2IMG_STRENGTH, **options})
    elif config.mode == "inpaint":
        change = Change(**options)
    painter = Painter(
        model,
        sampler=sampler,
        guidance=guidance,
        negative=clean_text(config.negative),
        side=config.side,
        change=change,
    )
    settings = {name: resolved(config[name]) for name in ("sampler", "guidance")}
    return painter, {
        **settings,
        "negative": painter.negative,
        "side": painter.side,
        **(change._asdict() if change is not None else {}),
    }


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

    Under torchrun each process makes every world-th image. What an earlier command wrote there is replaced; a folder that
    holds files of somebody else, or that another process writes into, is refused.

    make      orders -> images, which on a CPU does not depend on how orders are put together
    settings  for the record

    Raises ValueError where the folder is refused, or a setting is no finite number.
    """
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False  # the same image in any batch
    folder, record = SampleFolder(out), [_line({**order.record(), **settings, **order.record()}) for order in wanted]
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    own_group = world > 1 and not dist.is_initialized()
    if own_group:
        dist.init_process_group("gloo")
    share = wanted[rank::world]
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
                to_picture(image).save(out / order.file)
            bar.update(len(chunk))
        _barrier(world)
        if rank == 0:
            grid(_read([out / order.file for order in wanted[:GRID_IMAGES]])).save(out / GRID)
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
