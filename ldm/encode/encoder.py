"""`python -m ldm.encode`: shards of captioned images -> shards of their latents, once, so that stage 2 needs no encoder.

Written are the moments that the encoder gives: with a KL regulariser mean and log-variance of the posterior, not one sample
of it, so that training draws from it as it would from images; with a codebook, or with none, the raw latents.
"""

from __future__ import annotations

import os
import re
import shlex
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from operator import itemgetter
from pathlib import Path

import torch
from omegaconf import DictConfig
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from ldm.autoencoder.base import Autoencoder
from ldm.batch import Batch, Size, list_field, tensor_field
from ldm.checkpoint import load_autoencoder
from ldm.conditioner.base import Conditioner
from ldm.conditioner.text import TextConditioner, text_parts
from ldm.config import build, packages_of, resolved
from ldm.data.datamodule import CaptionedImages
from ldm.data.dataset import finish
from ldm.data.experiments import fitting_experiment
from ldm.data.latents import pack_latent
from ldm.data.rewriting import ExactBatches, chunks_of, claim, left_out, typed_names
from ldm.data.shards.names import StoredSample, write_shard
from ldm.files.output_folder import OutputFolder
from ldm.files.tensors import DTYPES
from ldm.options.rule import COUNT, FLAG, SEED, OneOf, Rule, check_all

PLAN = "encoding.json"

SHARD_NAME = re.compile(r"train-\d{6,}\.tar")

NOT_IMAGES = "what is encoded are images with an index: data=shards, data=icons or data=openmoji"

OPTIONS: dict[str, Rule] = {
    "batch_size": COUNT,
    "flip": FLAG,
    "text": FLAG,
    "dtype": OneOf(tuple(DTYPES)),
    "seed": SEED,
}
"""Which values the command's own options can have."""


class LatentEncoder:
    """Makes the files of cached latents from batches of images.

    Args:
        autoencoder: Encodes the images.
        flip: Encode the mirrored images as well.
        dtype: Of what is written: "float32", or "float16" (half the size; means and raw latents are rounded).
        conditioner: One with a frozen text encoder, whose tokens are written as well; None: no tokens.

    Raises:
        ValueError: Where the conditioner has no text encoder, or more than one, or one that is trained.
    """

    def __init__(
        self, autoencoder: Autoencoder, *, flip: bool, dtype: str, conditioner: Conditioner | None = None
    ) -> None:
        if dtype not in DTYPES:
            raise ValueError(f"dtype is one of {', '.join(DTYPES)}; got {dtype!r}")
        texts = text_parts(conditioner) if conditioner is not None else []
        if conditioner is not None and len(texts) != 1:
            raise ValueError(f"tokens are cached of one text encoder; the conditioner has {len(texts)}: set text=false")
        if any(part.frozen_hash is None for part in texts):
            raise ValueError(
                "the tokens of a conditioner that is trained cannot be cached; use conditioner=huggingface"
            )
        self.autoencoder = autoencoder
        self.flip = flip
        self.dtype = dtype
        self.text: TextConditioner | None = texts[0] if texts else None

    def facts(self, size: Size) -> dict[str, str]:
        """Return how latents are made, as it is written beside each."""
        return {
            "autoencoder": self.autoencoder.encoder_hash,
            "size": str(size),
            "flip": str(self.flip).lower(),
            "dtype": self.dtype,
            "text": (self.text.frozen_hash or "") if self.text is not None else "",
        }

    @torch.no_grad()
    def __call__(self, batch: Batch, facts: dict[str, str]) -> Iterator[bytes]:
        """Yield the file of each of the batch's samples."""
        fields = finish(batch, self.autoencoder.shift.device).fields
        image = tensor_field(fields, "image")
        tensors = {"moments": self._moments(image), "geometry": tensor_field(fields, "geometry")}
        if self.flip:
            tensors["flipped"] = self._moments(image.flip(-1))
        if self.text is not None:
            tensors |= self._tokens(self.text, list_field(fields, "caption"))
        for row, (height, width, *_) in enumerate(tensors["geometry"].tolist()):
            size = {"height": str(height), "width": str(width)}
            yield pack_latent({name: tensor[row] for name, tensor in tensors.items()}, {**facts, **size})

    def _moments(self, image: Tensor) -> Tensor:
        return self.autoencoder.encode(image).moments.to(DTYPES[self.dtype]).cpu()

    def _tokens(self, text: TextConditioner, captions: Sequence[str]) -> dict[str, Tensor]:
        found = text.encode_captions(captions)
        assert found.tokens is not None
        tokens = {"tokens": found.tokens.to(DTYPES[self.dtype]).cpu()}
        return tokens if found.mask is None else {**tokens, "mask": found.mask.cpu()}


def encode(
    data: CaptionedImages, encoder: LatentEncoder, out: Path, *, batch_size: int, rank: int = 0, world: int = 1
) -> Counter[str]:
    """Write a shard of latents for each shard of training images into a folder; those that are there are kept.

    Args:
        data: The images.
        encoder: Makes the files.
        out: The folder.
        batch_size: Images at once.
        rank: Number of this process, which takes each `world`-th shard.
        world: Number of processes.

    Returns:
        The number of samples, shards, shards kept, and of the shards written the number of what was left out, by the reason.
    """
    folder = output_folder(out)
    shards = range(rank, len(data.train_set.index.shards), world)
    if rank > 0:
        folder.check()
        return _encode(data, encoder, out, batch_size, shards)
    with folder.lock():  # for all of them
        return _encode(data, encoder, out, batch_size, shards)


def output_folder(out: Path) -> OutputFolder:
    """Return the folder for shards of latents, in which nothing else may lie."""
    begun = (out / PLAN).is_file()  # which is written before any shard
    return OutputFolder(
        out, option="out", is_own=lambda name: begun and (name == PLAN or SHARD_NAME.fullmatch(name) is not None)
    )


def _encode(
    data: CaptionedImages, encoder: LatentEncoder, out: Path, batch_size: int, shards: Sequence[int]
) -> Counter[str]:
    index, facts = data.train_set.index, encoder.facts(data.size)
    captions = data.caption.fields if facts["text"] else None
    claim(out / PLAN, {"facts": facts, "captions": captions, "shards": index.fingerprint})
    files = {shard: out / f"train-{shard:06d}.tar" for shard in shards}
    todo = [shard for shard, file in files.items() if not file.is_file()]
    done = Counter({"shards written": len(todo), "shards kept": len(files) - len(todo)})
    for shard in todo:
        done.update(left_out(index, shard))
    chunks = chunks_of(index, todo, batch_size)
    total = sum(len(numbers) for _, numbers in chunks)
    loader = DataLoader(
        ExactBatches(data.train_set, [numbers for _, numbers in chunks]), None, num_workers=data.workers
    )
    with tqdm(total=total, desc="encoding", unit="image", disable=0 not in shards) as bar:

        def files_of(batches: Iterable[tuple[int, tuple[Batch, list[dict[str, bytes]]]]]) -> Iterator[StoredSample]:
            for _, (batch, texts) in batches:
                yield from _files_of(batch, texts, encoder, facts)
                done.update({"samples": len(batch.key), **Counter(skip.reason for skip in batch.skipped)})
                data.bad_samples.count(len(batch.key), batch.skipped, total)
                bar.update(len(batch.key) + len(batch.skipped))

        for shard, batches in groupby(zip((shard for shard, _ in chunks), loader), key=itemgetter(0)):
            write_shard(files[shard], files_of(batches))
    return done


def _files_of(
    batch: Batch, others: Sequence[dict[str, bytes]], encoder: LatentEncoder, facts: dict[str, str]
) -> Iterator[StoredSample]:
    if not batch.key:
        return
    captions = list_field(batch.fields, "caption") if facts["text"] else []
    for row, (key, files, latent) in enumerate(zip(batch.key, others, encoder(batch, facts), strict=True)):
        only = {"txt": captions[row].encode()} if captions else {}
        yield {"__key__": key, "safetensors": latent, **files, **only}


def main(config: DictConfig) -> None:
    """Do what the command says."""
    check_all(resolved(config), OPTIONS)
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    gpu = f"cuda:{os.environ.get('LOCAL_RANK', 0)}"
    device = config.device or (gpu if torch.cuda.is_available() else "cpu")
    out = Path(config.out)
    output_folder(out).check()
    data = build(config.data)
    if not isinstance(data, CaptionedImages):
        raise ValueError(f"{NOT_IMAGES}; data=stream has none")
    if data.crop != "center" or data.flip or data.buckets is not None:
        raise ValueError(
            "images that change cannot be encoded once: data.crop=center data.flip=false data.buckets=null"
        )
    autoencoder, _ = load_autoencoder(config.autoencoder.ckpt, packages=packages_of(resolved(config)))
    autoencoder.check_size(data.size)
    conditioner = None
    if config.text:
        conditioner = build(config.conditioner)
        conditioner.prepare(())
        conditioner.to(device).eval()
    encoder = LatentEncoder(
        autoencoder.to(device).eval(), flip=config.flip, dtype=config.dtype, conditioner=conditioner
    )
    data.need(("caption",) if config.text else ())
    data.open()
    if data.encoding:
        raise ValueError(f"{NOT_IMAGES}; data.train are latents already")
    done = encode(data, encoder, out, batch_size=config.batch_size, rank=rank, world=world)
    print(f"process {rank}: " + ", ".join(f"{name}: {count}" for name, count in done.items()) + f", in {out}")
    if rank == 0:
        val = f"{data.source.write()}/val-*.tar" if data.source is not None else resolved(config.data.val)
        options = {
            "data.train": typed_names(f"{out}/train-*.tar"),
            "data.val": typed_names(val),
            "data.size": str(data.size),
            "data.flip": str(config.flip).lower(),
            "autoencoder.ckpt": typed_names(config.autoencoder.ckpt),
        }
        words = " ".join(f"{name}={shlex.quote(str(value))}" for name, value in options.items())
        print(f"next: python train.py experiment={fitting_experiment(data)} data=latents {words}")
