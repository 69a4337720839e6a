"""Sampling a checkpoint into a folder: what `sample.py` does."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import torch
from omegaconf import DictConfig
from PIL import Image
from torch import Tensor

from ldm import checkpoint
from ldm.autoencoder.base import Autoencoder
from ldm.batch import Size, as_size
from ldm.conditioner.base import Conditioner
from ldm.conditioner.text import cut_prompts
from ldm.config import build, is_rank_zero, resolved
from ldm.model import LatentDiffusion, Source
from ldm.options import COUNT, FRACTION, SEED, SIZE, Optional, Rule, Whole, check
from ldm.orders import (
    Order,
    check_images,
    check_mode,
    find_images,
    orders,
    read_image,
    read_masked,
)
from ldm.prompts import Prompt, negatives, read_prompts
from ldm.sample_folder import SampleFolder
from ldm.sample_writer import generate
from ldm.sampler.base import Sampler
from ldm.sampler.finite import check_finite, check_weights
from ldm.sampler.given import Toward
from ldm.sampler.guidance import Guidance
from ldm.sweep import job_folder
from ldm.text import clean_text

log = logging.getLogger(__name__)

MOST_WARNINGS = 10
IMG2IMG_STRENGTH = 0.6

RULES: dict[str, Rule] = {
    "n": COUNT,
    "seed": SEED,
    "to_seed": Optional(SEED, "the same"),
    "batch_size": COUNT,
    "size": Optional(SIZE, "as in training"),
    "strength": Optional(FRACTION),
    "border": Optional(Whole(0)),
    "visits": Optional(COUNT),
}
"""Numbers among the options of `sample.py` -> what they can be; those of samplers and guidance are checked by them."""

TEXTS = ("negative", "to_prompt", "init_prompt")
"""Options that the model reads, beside prompts."""

FILES = ("ckpt", "decoder", "init", "mask", "prompts")
"""Options that name what is read."""


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
    size      of the images, (height, width); None: as in training
    change    of images to begin with
    """

    def __init__(
        self,
        model: LatentDiffusion,
        *,
        sampler: Sampler,
        guidance: Guidance,
        negative: str = "",
        size: Sequence[int] | int | None = None,
        change: Change | None = None,
    ) -> None:
        self.model = model
        self.sampler = sampler
        self.guidance = guidance
        self.negative = negative
        self.size = model.size if size is None else as_size(size)
        self.change = change or Change()
        model.check_size(self.size)

    def __call__(self, wanted: Sequence[Order]) -> Tensor:
        """Images `(N, 3, H, W)` in [-1, 1]."""
        return self.model.sample(
            [order.prompt or "" for order in wanted],
            seeds=[order.seed or 0 for order in wanted],
            negative=[self.negative if order.negative is None else order.negative for order in wanted],
            toward=_toward(wanted),
            source=self._source(wanted),
            sampler=self.sampler,
            guidance=self.guidance,
            size=self.size,
            batch_size=len(wanted),
        )

    def check_masks(self, inits: Sequence[str]) -> None:
        """Raise ValueError where, of an image cut to the size, all is masked or nothing."""
        if self.change.mask is not None:
            for file in inits:
                read_masked(file, self.change.mask, self.size)

    def _source(self, wanted: Sequence[Order]) -> Source | None:
        files = [order.init for order in wanted if order.init is not None]
        if not files:
            return None
        strength, mask_file, border, visits, text = self.change
        if mask_file is None:
            images = {file: read_image(file, self.size) for file in set(files)}
            image = torch.stack([images[file] for file in files])
            return Source(image, strength, prompts=None if text is None else [text] * len(files))
        masked = {file: read_masked(file, mask_file, self.size) for file in set(files)}
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
    """Encodes and decodes the images of orders, cut to `size`, without noise."""

    def __init__(self, autoencoder: Autoencoder, *, size: Size) -> None:
        self.autoencoder = autoencoder
        self.size = size
        autoencoder.check_size(size)

    @torch.no_grad()
    def __call__(self, wanted: Sequence[Order]) -> Tensor:
        """Images `(N, 3, H, W)` in [-1, 1]."""
        images = torch.stack([read_image(str(order.init), self.size) for order in wanted])
        posterior = self.autoencoder.encode(images.to(self.autoencoder.shift.device))
        made = self.autoencoder.decode(posterior.mean).float().cpu()
        if not made.isfinite().all():
            check_weights(self.autoencoder)
        check_finite(made, [f"the reconstruction of {order.init}" for order in wanted])
        return made.clamp(-1, 1)


def sample(config: DictConfig) -> tuple[list[Order], Path]:
    """What the command does with its options; returns what was made, and the folder that it is in."""
    _check(config)
    prompts = [] if config.mode == "reconstruct" else read_prompts(config.prompt, config.prompts)
    texts = {name: None if config[name] is None else clean_text(config[name]) for name in TEXTS}
    inits = find_images(config.init)
    folder = SampleFolder(job_folder(config.out))
    folder.check(_inputs(config, inits))
    check_images(inits, config.mask)
    wanted = orders(
        config.mode,
        prompts,
        config.n,
        config.seed,
        inits=inits,
        to_prompt=texts["to_prompt"],
        to_seed=config.to_seed,
    )
    make: Callable[[Sequence[Order]], Tensor]
    if config.mode == "reconstruct":
        make, settings = _reconstruction(config, _device(config), wanted)
    else:
        painter, settings = _painter(config, texts, prompts, _device(config))
        told = [*(prompt.text for prompt in prompts), *negatives(prompts, ""), *(text or "" for text in texts.values())]
        _warn_of_cut(painter.model.conditioner, told)
        painter.check_masks(inits)
        make = painter
    settings = {"ckpt": config.ckpt, "decoder": config.decoder, "mode": config.mode, **settings}
    settings = {name: value for name, value in settings.items() if value not in (None, "")}
    generate(make, wanted, folder, settings=settings, batch_size=config.batch_size)
    return wanted, folder.path


def _warn_of_cut(conditioner: Conditioner, prompts: Sequence[str]) -> None:
    """Log what is cut away from prompts that are too long, a line for each of the first few."""
    if is_rank_zero():
        for warning in islice(cut_prompts(conditioner, prompts), MOST_WARNINGS):
            log.warning(warning)


def _check(config: DictConfig) -> None:
    """Raise ValueError where options make no sense, before anything is loaded."""
    for name, rule in RULES.items():
        check(name, config[name], rule)
    for name in ("ckpt", "out"):
        if not config[name]:
            raise ValueError(f"the option {name} has no value; type {name}=VALUE, or --help for an example")
    if isinstance(config.packages, str):
        raise ValueError(f"packages is a list; say packages=[ldm,{config.packages}]")
    names = ("prompt", "prompts", "init", "mask", "strength", "border", "visits", "init_prompt", "to_prompt", "to_seed")
    given = {name: config[name] for name in names}
    check_mode(config.mode, negative=config.negative or None, **given)


def _inputs(config: DictConfig, inits: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Option and path of each file that is read."""
    yield from ((name, config[name]) for name in FILES if config[name] is not None)
    yield from (("init", file) for file in inits)
    yield from ((name, text) for name, text in _texts(resolved(config.guidance), "guidance") if os.path.exists(text))


def _texts(node: Any, name: str) -> Iterator[tuple[str, str]]:
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
        torch.zeros(1, device=name).tolist()  # some, like meta, hold no numbers
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"there is no device={name} here ({reason}); say device=cpu") from error
    return torch.device(name)


def _painter(
    config: DictConfig, texts: dict[str, str | None], prompts: list[Prompt], device: torch.device
) -> tuple[Painter, dict[str, Any]]:
    sampler: Sampler = build(config.sampler)
    guidance: Guidance = build(config.guidance)
    if any(negatives(prompts, texts["negative"] or "")) and not guidance.has_negative:
        raise ValueError(
            "negative= is what classifier-free guidance leads away from; with this guidance there is none: "
            "leave it out, or say guidance=classifier_free guidance.scale=2"
        )
    model = checkpoint.load(config.ckpt, device=device, packages=config.packages)
    if config.decoder is not None:
        model.autoencoder = checkpoint.with_decoder(model.autoencoder, config.decoder, packages=config.packages)
    given = {name: texts.get(name, config[name]) for name in Change._fields}
    options = {name: value for name, value in given.items() if value is not None}
    change = None
    if config.mode == "img2img":
        change = Change(**{"strength": IMG2IMG_STRENGTH, **options})
    elif config.mode == "inpaint":
        change = Change(**options)
    painter = Painter(
        model,
        sampler=sampler,
        guidance=guidance,
        negative=texts["negative"] or "",
        size=resolved(config.size),
        change=change,
    )
    settings = {name: resolved(config[name]) for name in ("sampler", "guidance")}
    settings["negative"] = painter.negative
    return painter, {**settings, "size": list(painter.size), **(change._asdict() if change is not None else {})}


def _reconstruction(
    config: DictConfig, device: torch.device, wanted: Sequence[Order]
) -> tuple[Reconstruction, dict[str, Any]]:
    """As large as the first image, but for what the autoencoder's factor does not divide."""
    autoencoder, _ = checkpoint.load_autoencoder(config.ckpt, packages=config.packages)
    if config.decoder is not None:
        autoencoder = checkpoint.with_decoder(autoencoder, config.decoder, packages=config.packages)
    if config.size is not None:
        size = as_size(resolved(config.size))
    else:
        with Image.open(str(wanted[0].init)) as picture:
            length = max(min(picture.size) // autoencoder.factor, 1) * autoencoder.factor
        size = Size(length, length)
    return Reconstruction(autoencoder.to(device).eval(), size=size), {"size": list(size)}
