"""Sample a checkpoint into a folder, as `sample.py` does."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from ldm import checkpoint
from ldm.autoencoder.base import Autoencoder
from ldm.autoencoder.tiles import TILE, Tiles
from ldm.conditioner.learned_words import pattern_of
from ldm.config import build, build_literally, resolved
from ldm.generation.decoder import with_decoder
from ldm.generation.folder import SampleFolder
from ldm.generation.inputs import INPUTS
from ldm.generation.mode.base import Mode, ModeParts, PromptMode
from ldm.generation.request import SampleRequest, texts_of
from ldm.generation.writer import generate
from ldm.guidance.base import Guidance
from ldm.interop.lora.chosen import chosen_loras
from ldm.interop.textual_inversion import read_words
from ldm.model import LatentDiffusion
from ldm.options.rule import COUNT, SEED, Rule, check
from ldm.options.sweep import job_folder
from ldm.pretrained.device import find_device
from ldm.processes.cores import warn_of_busy_cores
from ldm.processes.memory import limit_memory
from ldm.sampler.base import Sampler

RULES: dict[str, Rule] = {"n": COUNT, "seed": SEED, "batch_size": COUNT, "tile": TILE}
"""Options of every mode that are numbers -> their rules; other options are checked by their own parts."""


class ConfigParts(ModeParts):
    """The parts that the options of `sample.py` describe.

    Args:
        config: The options.
        device: Where models are put.
    """

    def __init__(self, config: DictConfig, device: torch.device) -> None:
        self.config = config
        self.device = device
        self.settings: dict[str, Any] = {}
        """Options of the parts that were asked for, for the record."""

    def model(self) -> LatentDiffusion:
        """See `ModeParts.model`."""
        packages = self.config.packages
        loras = chosen_loras(self.config.lora, self.config.lora_scale)
        words = read_words(self.config.textual_inversion)
        model, _ = checkpoint.load_with_config(
            self.config.ckpt, device=self.device, packages=packages, loras=loras, words=words
        )
        if words:
            self.settings["textual_inversion"] = resolved(self.config.textual_inversion)
        if loras:
            self.settings |= {name: resolved(self.config)[name] for name in ("lora", "lora_scale")}
            # a file of that name may be another one later
            self.settings["lora_sha256"] = [one.digest() for one in loras]
        if self.config.decoder is not None:
            model.autoencoder = with_decoder(model.autoencoder, self.config.decoder, packages=packages)
        return model

    def autoencoder(self) -> Autoencoder:
        """See `ModeParts.autoencoder`."""
        packages = self.config.packages
        for name in ("lora", "textual_inversion"):
            if self.config[name] is not None:
                raise ValueError(
                    f"{name}={self.config[name]} would change nothing: this mode asks the autoencoder alone; leave it out"
                )
        autoencoder, _ = checkpoint.load_autoencoder(self.config.ckpt, packages=packages)
        if self.config.decoder is not None:
            autoencoder = with_decoder(autoencoder, self.config.decoder, packages=packages)
        return autoencoder.to(self.device).eval()

    def sampler(self) -> Sampler:
        """See `ModeParts.sampler`."""
        self.settings["sampler"] = resolved(self.config.sampler)
        sampler: Sampler = build(self.config.sampler)
        return sampler

    def guidance(self) -> Guidance:
        """See `ModeParts.guidance`."""
        self.settings["guidance"] = resolved(self.config.guidance)
        guidance: Guidance = build(self.config.guidance)
        return guidance

    def tiles(self) -> Tiles | None:
        """See `ModeParts.tiles`."""
        if self.config.tile is None:
            return None
        self.settings |= {name: self.config[name] for name in ("tile", "tile_overlap")}
        return Tiles(self.config.tile, self.config.tile_overlap)


def sample(config: DictConfig) -> tuple[list[SampleRequest], Path]:
    """Make images as the options of a command say.

    Args:
        config: `configs/sample.yaml` with the options.

    Returns:
        The requests whose images were made, and the folder of the images.

    Raises:
        ValueError: Where options make no sense, before anything is written.
    """
    _check(config)
    mode: Mode = build_literally(config.mode)
    given = [name for name, value in config.inputs.items() if value is not None]
    if given and not isinstance(mode, PromptMode):
        raise ValueError(
            f"{' and '.join(given)} would change nothing with mode={mode.name}; leave {'it' if len(given) == 1 else 'them'} out"
        )
    requests = mode.requests(config.n, config.seed)
    _check_words(config, requests)
    folder = SampleFolder(job_folder(config.out))
    folder.check(_inputs(config, requests))
    device = find_device(config.device)
    parts = ConfigParts(config, device)
    generator = mode.generator(parts)
    requests = generator.prepare(requests)
    settings = {"ckpt": config.ckpt, "decoder": config.decoder, "mode": mode.name, **parts.settings, **mode.settings()}
    settings = {name: value for name, value in settings.items() if value is not None}
    limit_memory(device)
    warn_of_busy_cores(device)
    pictures, batch_size = generator.condition_pictures, config.batch_size
    generate(generator, requests, folder, condition_pictures=pictures, settings=settings, batch_size=batch_size)
    return requests, folder.path


def _check(config: DictConfig) -> None:
    """Raise ValueError where options make no sense, before anything is loaded."""
    for name, rule in RULES.items():
        check(name, config[name], rule)
    for name in ("ckpt", "out"):
        if not config[name]:
            raise ValueError(f"the option {name} has no value; type {name}=VALUE, or --help for an example")
    chosen_loras(config.lora, config.lora_scale)
    if isinstance(config.packages, str):
        raise ValueError(f"packages is a list; say packages=[ldm,{config.packages}]")


def _check_words(config: DictConfig, requests: Sequence[SampleRequest]) -> None:
    """Raise ValueError where a learned word is in none of the texts."""
    texts = list(texts_of(requests))
    for word in read_words(config.textual_inversion):
        if not any(pattern_of(word.word).search(text) for text in texts):
            raise ValueError(
                f"textual_inversion={word.file} would change nothing: its word {word.word!r} is in no prompt; write it into "
                "prompt= or negative=, or leave the file out"
            )


def _inputs(config: DictConfig, requests: Sequence[SampleRequest]) -> Iterator[tuple[str, str]]:
    """Yield option and path of each file that is read: of all options whose value is the name of one, and of requests."""
    options = {name: value for name, value in resolved(config).items() if name != "out"}
    yield from ((name, text) for name, text in _texts(options) if os.path.exists(text))
    yield from (("init", request.init) for request in requests if request.init is not None)
    yield from (
        (option, source)
        for request in requests
        for option, source in request.all_inputs.items()
        if INPUTS[option.removeprefix("to_")].reads_files
    )


def _texts(node: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Yield name and value of each text in a plain config."""
    if isinstance(node, dict):
        for key, value in node.items():
            yield from _texts(value, f"{name}.{key}" if name else str(key))
    elif isinstance(node, list):
        for value in node:
            yield from _texts(value, name)
    elif isinstance(node, str):
        yield name, node
