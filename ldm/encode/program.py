"""`python -m ldm.encode`: check its options, say what will be written, write it, and say what to type next."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from tqdm.auto import tqdm

from ldm.batch import tensor_field
from ldm.checkpoint import load_autoencoder
from ldm.config import build, packages_of, resolved
from ldm.data.cached_text import typed_fields
from ldm.data.datamodule import CaptionedImages
from ldm.data.fields.all_captions import AllCaptionsReader
from ldm.data.fitting import fitting_experiment
from ldm.data.rewriting import typed_names
from ldm.encode.encoder import LatentEncoder, encode, estimate, output_folder, shard_file
from ldm.encode.estimate import as_size_text
from ldm.encode.precision import LatentComparison, compare_precision
from ldm.files.tensors import DTYPES
from ldm.options.arguments import quoted
from ldm.options.rule import COUNT, FLAG, SEED, OneOf, Rule, check_all
from ldm.pretrained.device import find_device
from ldm.pretrained.precision import FULL, PRECISIONS
from ldm.processes.cores import warn_of_busy_cores
from ldm.processes.memory import limit_memory

NOT_IMAGES = "what is encoded are images with an index: data=shards, data=icons or data=openmoji"

OPTIONS: dict[str, Rule] = {
    "batch_size": COUNT,
    "flip": FLAG,
    "text": FLAG,
    "dtype": OneOf(tuple(DTYPES)),
    "precision": OneOf(PRECISIONS),
    "compared_images": COUNT,
    "seed": SEED,
}
"""The rules of the command's own options."""


def main(config: DictConfig) -> None:
    """Run the command."""
    check_all(resolved(config), OPTIONS)
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    device = find_device(config.device)
    out = Path(config.out)
    output_folder(out).check()
    data = build(config.data)
    if not isinstance(data, CaptionedImages):
        raise ValueError(f"{NOT_IMAGES}; data=stream has none")
    if data.crop != "center" or data.flip or data.buckets is not None:
        raise ValueError(
            "images that change cannot be encoded once: data.crop=center data.flip=false data.buckets=null"
        )
    if config.text:
        AllCaptionsReader(data.caption)  # refuses those that cannot be encoded once
    autoencoder, _ = load_autoencoder(config.autoencoder.ckpt, packages=packages_of(resolved(config)))
    autoencoder.check_size(data.size)
    conditioner = None
    if config.text:
        conditioner = build(config.conditioner)
        conditioner.prepare(())
        conditioner.to(device).eval()
    vision = None if config.alignment is None else build(config.alignment.encoder).to(device)
    limit_memory(device)
    warn_of_busy_cores(device)
    encoder = LatentEncoder(
        autoencoder.to(device).eval(),
        flip=config.flip,
        dtype=config.dtype,
        precision=config.precision,
        conditioner=conditioner,
        vision=vision,
    )
    data.need(("caption",) if config.text else ())
    data.open()
    if data.encoding:
        raise ValueError(f"{NOT_IMAGES}; data.train are latents already")
    if rank == 0:
        print(f"plan: {estimate(data, encoder)}", flush=True)
    notes = {}
    if config.precision != FULL:
        notes["precision"] = _compared(config, data, encoder, rank).record()
    done = encode(data, encoder, out, batch_size=config.batch_size, notes=notes, rank=rank, world=world)
    counts = ", ".join(f"{name}: {count}" for name, count in done.items())
    shards = range(rank, len(data.train_set.index.shards), world)
    written = sum(shard_file(out, shard).stat().st_size for shard in shards)
    print(f"process {rank}: {counts}, {as_size_text(written)} in {out}")
    if rank == 0:
        print(f"next: python train.py experiment={fitting_experiment(data)} data=latents {_next_options(config, data)}")


def _compared(config: DictConfig, data: CaptionedImages, encoder: LatentEncoder, rank: int) -> LatentComparison:
    """Compare some latents in the precision that was chosen with those in full precision; show the result, and check it."""
    batches = data.training_pass(config.batch_size, limit=config.compared_images)
    bar = tqdm(batches, desc="comparing", unit="batch", disable=rank > 0)
    images = (tensor_field(batch.fields, "image") for batch in bar)
    comparison = compare_precision(encoder.autoencoder, images, encoder.precision)
    if rank == 0:
        print(comparison, flush=True)
    comparison.check("precision")
    return comparison


def _next_options(config: DictConfig, data: CaptionedImages) -> str:
    """Return the options of the command that trains on what was written, as they are typed in a shell."""
    val = f"{data.source.write()}/val-*.tar" if data.source is not None else resolved(config.data.val)
    options = {
        "data.train": typed_names(f"{config.out}/train-*.tar"),
        "data.val": typed_names(val),
        "data.size": str(data.size),
        "data.flip": str(config.flip).lower(),
        "autoencoder.ckpt": typed_names(config.autoencoder.ckpt),
    }
    if data.caption.fields is not None:
        options["data.caption.fields"] = typed_fields(data.caption.fields)
    if config.text:
        options |= _text_options(resolved(config.conditioner))
    if config.alignment is not None:
        options |= _alignment_options(resolved(config.alignment.encoder))
    return " ".join(f"{name}={shlex.quote(str(value))}" for name, value in options.items())


def _alignment_options(encoder: Mapping[str, Any]) -> dict[str, str]:
    """Return the options that choose the vision encoder again whose features were written."""
    words = {"alignment": "repa"}
    for name, value in encoder.items():
        if name != "_target_":
            words[f"alignment.encoder.{name}"] = typed_names(value) if isinstance(value, str) else json.dumps(value)
    return words


def _text_options(conditioner: Mapping[str, Any]) -> dict[str, str]:
    """Return the options that choose the text encoder again whose tokens were written; none where it is part of another."""
    if "name" not in conditioner:
        return {}
    words = {"conditioner": "huggingface", "conditioner.name": typed_names(conditioner["name"])}
    for name, value in conditioner.items():
        if name not in ("_target_", "name", "drop_rate"):
            words[f"conditioner.{name}"] = quoted(value) if isinstance(value, str) else json.dumps(value)
    return words
