"""Shards of captioned images -> shards of their latents, once, so that stage 2 needs no encoder.

Written are the moments that the encoder gives: with a KL regulariser mean and log-variance of the posterior, not one sample
of it, so that training draws from it as it would from images; with a codebook, or with none, the raw latents. With text=true
the tokens of all captions of each sample are written, too, so that training draws a caption as it would beside images; with
an alignment the features of its frozen vision encoder.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ldm.autoencoder.base import Autoencoder
from ldm.batch import Batch, Size, list_field, tensor_field
from ldm.conditioner.base import Conditioner
from ldm.conditioner.text import TextConditioner, text_parts
from ldm.data.cached_text import CAPTIONS_FACT, TEXT_FACT, captions_fact, digests_of
from ldm.data.datamodule import CaptionedImages
from ldm.data.dataset import ShardDataset, finish
from ldm.data.fields.all_captions import AllCaptionsReader
from ldm.data.latents import FEATURES, FEATURES_FACT, FLIPPED_FEATURES, SOURCE_FACT, pack_latent
from ldm.data.rewriting import Piece, ShardRewriting, claim
from ldm.data.shards.dataset_index import index_shards
from ldm.data.shards.names import StoredSample, write_shard
from ldm.data.shards.shard_index import ShardSummary
from ldm.encode.estimate import CacheEstimate, SampleBytes, count_captions
from ldm.files.output_folder import OutputFolder
from ldm.files.tensors import DTYPES
from ldm.pretrained.precision import FULL, PRECISIONS, computing_in
from ldm.pretrained.vision import VisionEncoder

PLAN = "encoding.json"

TAR_HEADER = 512
"""Bytes of the header of a file in a tar archive, and the unit to which its bytes are filled up."""

SHARD_NAME = re.compile(r"train-\d{6,}\.tar")


class LatentEncoder:
    """Makes the files of cached latents from batches of images.

    Args:
        autoencoder: Encodes the images.
        flip: Encode the mirrored images as well.
        dtype: The type of the written numbers: "float32", or "float16" (half the size; means and raw latents are rounded).
        precision: The precision of the autoencoder, one of `PRECISIONS`; see `compare_precision`.
        conditioner: One with a frozen text encoder, whose tokens of all captions are written as well; None: no tokens.
        vision: A vision encoder, whose features are written as well, in float16; None: no features.

    Raises:
        ValueError: Where the conditioner has no text encoder, or more than one, or one that is trained.
    """

    def __init__(
        self,
        autoencoder: Autoencoder,
        *,
        flip: bool,
        dtype: str,
        precision: str = FULL,
        conditioner: Conditioner | None = None,
        vision: VisionEncoder | None = None,
    ) -> None:
        if dtype not in DTYPES:
            raise ValueError(f"dtype is one of {', '.join(DTYPES)}; got {dtype!r}")
        if precision not in PRECISIONS:
            raise ValueError(f"precision is one of {', '.join(PRECISIONS)}; got {precision!r}")
        texts = text_parts(conditioner) if conditioner is not None else []
        if conditioner is not None and len(texts) != 1:
            raise ValueError(f"tokens are cached of one text encoder; the conditioner has {len(texts)}: set text=false")
        self.text: TextConditioner | None = texts[0] if texts else None
        text_hash = texts[0].frozen_hash if texts else ""
        if text_hash is None:
            raise ValueError(
                "the tokens of a conditioner that is trained cannot be cached; use conditioner=huggingface"
            )
        self.autoencoder = autoencoder
        self.flip = flip
        self.dtype = dtype
        self.precision = precision
        self.text_hash = text_hash
        self.vision = vision
        self.features_hash = "" if vision is None else vision.features_hash

    def facts(self, size: Size) -> dict[str, str]:
        """Return the settings with which latents are made, as they are written beside each latent."""
        return {
            "autoencoder": self.autoencoder.encoder_hash,
            "size": str(size),
            "flip": str(self.flip).lower(),
            "dtype": self.dtype,
            "precision": self.precision,
            TEXT_FACT: self.text_hash,
            FEATURES_FACT: self.features_hash,
        }

    @torch.no_grad()
    def sizes(self, size: Size) -> SampleBytes:
        """Return the number of bytes that a sample with an image of a given size takes in a shard."""
        blank = torch.zeros(1, 3, *size, device=self.autoencoder.shift.device)
        moments = self._moments(blank)[0]
        tensors = {
            "moments": moments,
            "geometry": torch.zeros(6),
            **({"flipped": moments.clone()} if self.flip else {}),
        }
        file = len(pack_latent(tensors, self.facts(size)))
        texts = [] if self.text is None else list(self._texts([[""]])[0].values())
        return SampleBytes(
            TAR_HEADER + -(-file // TAR_HEADER) * TAR_HEADER,
            sum(tensor.nbytes for tensor in texts),
            sum(tensor.nbytes for tensor in self._features(blank).values()),
        )

    @torch.no_grad()
    def __call__(self, batch: Batch, facts: dict[str, str]) -> Iterator[bytes]:
        """Yield the file of each of the batch's samples, which have the field `captions` where tokens are written."""
        fields = finish(batch, self.autoencoder.shift.device).fields
        image = tensor_field(fields, "image")
        tensors = {"moments": self._moments(image), "geometry": tensor_field(fields, "geometry")}
        if self.flip:
            tensors["flipped"] = self._moments(image.flip(-1))
        tensors |= self._features(image)
        texts = self._texts(list_field(fields, "captions")) if self.text is not None else [{}] * len(image)
        for row, (height, width, *_) in enumerate(tensors["geometry"].tolist()):
            size = {"height": str(height), "width": str(width)}
            of_row = {name: tensor[row] for name, tensor in tensors.items()}
            yield pack_latent({**of_row, **texts[row]}, {**facts, **size})

    def _moments(self, image: Tensor) -> Tensor:
        with computing_in(self.precision, image.device):
            moments = self.autoencoder.encode(image).moments
        return moments.to(DTYPES[self.dtype]).cpu()

    def _features(self, image: Tensor) -> dict[str, Tensor]:
        """Return the features of images, and of the mirrored images where they are encoded, too."""
        if self.vision is None:
            return {}
        images = {FEATURES: image, **({FLIPPED_FEATURES: image.flip(-1)} if self.flip else {})}
        found = {name: self.vision(one).half().cpu() for name, one in images.items()}
        if not all(features.isfinite().all() for features in found.values()):
            raise ValueError(
                "the vision encoder gives features that are not finite, or too large for float16; take another as "
                "alignment.encoder.name"
            )
        return found

    def _texts(self, captions: Sequence[Sequence[str]]) -> list[dict[str, Tensor]]:
        """Return digests, tokens and perhaps mask of the captions of each sample; as many are encoded at once as images."""
        texts = [caption for of_sample in captions for caption in of_sample]
        parts = [self._tokens(texts[start : start + len(captions)]) for start in range(0, len(texts), len(captions))]
        counts = [len(of_sample) for of_sample in captions]
        found = {name: torch.cat([part[name] for part in parts]).split(counts) for name in parts[0]}
        return [
            {"captions": digests_of(of_sample), **{name: rows[number] for name, rows in found.items()}}
            for number, of_sample in enumerate(captions)
        ]

    def _tokens(self, captions: Sequence[str]) -> dict[str, Tensor]:
        assert self.text is not None
        found = self.text.encode_captions(captions)
        assert found.tokens is not None
        tokens = {"tokens": found.tokens.to(DTYPES[self.dtype]).cpu()}
        return tokens if found.mask is None else {**tokens, "mask": found.mask.cpu()}


def encode(
    data: CaptionedImages,
    encoder: LatentEncoder,
    out: Path,
    *,
    batch_size: int,
    notes: Mapping[str, Any] | None = None,
    rank: int = 0,
    world: int = 1,
) -> Counter[str]:
    """Write a shard of latents for each shard of training images into a folder; those that are there are kept.

    Args:
        data: The images.
        encoder: Makes the files.
        out: The folder.
        batch_size: Images at once.
        notes: Notes for the folder's encoding.json beside the settings, as they can be written in JSON; None: none.
        rank: Number of this process, which takes each `world`-th shard.
        world: Number of processes.

    Returns:
        The number of shards written and kept, of samples, of captions where their tokens are written, and of the shards
        written the number of what was left out, by the reason.

    Raises:
        ValueError: Where the captions cannot be encoded once, or the folder was begun with other settings or other data.
    """
    folder, train, facts = output_folder(out), data.train_set, encoder.facts(data.size)
    index, readers, reader = train.index, train.readers, None
    if encoder.text is not None:
        reader = AllCaptionsReader(data.caption)
        readers = [*readers, reader]
        facts[CAPTIONS_FACT] = captions_fact(data.caption.fields)
    images = ShardDataset(index, train.transform, readers, seed=data.seed)
    files = {shard: shard_file(out, shard) for shard in range(rank, len(index.shards), world)}
    encoding = ShardRewriting(
        index,
        files,
        images.exactly,
        batch_size,
        data.workers,
        data.bad_samples,
        description="encoding",
        quiet=rank > 0,
    )

    def samples(pieces: Iterator[Piece], facts: dict[str, str]) -> Iterator[StoredSample]:
        for batch, others in pieces:
            if reader is not None:
                encoding.done["captions"] += sum(map(len, batch.fields.get(reader.name, ())))
            if batch.key:
                for key, files, latent in zip(batch.key, others, encoder(batch, facts), strict=True):
                    yield {"__key__": key, "safetensors": latent, **files}

    with folder.lock() if rank == 0 else nullcontext():  # for all of them
        if rank > 0:
            folder.check()
        claim(out / PLAN, {"facts": facts, "shards": index.fingerprint}, notes=notes)
        for shard, pieces in encoding:
            of_shard = {**facts, SOURCE_FACT: _digests(index.shards[shard], data.cache)}
            write_shard(files[shard], samples(pieces, of_shard))
    return encoding.done


def shard_file(out: Path, number: int) -> Path:
    """Return the file of the latents of the shard of images with a number."""
    return out / f"train-{number:06d}.tar"


def estimate(data: CaptionedImages, encoder: LatentEncoder) -> CacheEstimate:
    """Return the numbers of images and captions to encode, and the size of the shards to be written.

    Args:
        data: The images.
        encoder: Makes the files.
    """
    images = len(data.train_set)
    looked_at, captions = images, 0
    if encoder.text is not None:
        looked_at, captions = count_captions(data.train_set, AllCaptionsReader(data.caption))
    return CacheEstimate(images, looked_at, captions, *encoder.sizes(data.size))


def output_folder(out: Path) -> OutputFolder:
    """Return the folder for shards of latents, in which nothing else may lie."""
    begun = (out / PLAN).is_file()  # which is written before any shard
    return OutputFolder(
        out, option="out", is_own=lambda name: begun and (name == PLAN or SHARD_NAME.fullmatch(name) is not None)
    )


def _digests(shard: ShardSummary, cache: Path) -> str:
    """Return the digests of a shard, with and without its images alone."""
    views = [index_shards([shard.path], cache / "index", alone=alone)[0] for alone in (False, True)]
    return " ".join(dict.fromkeys(view.digest for view in views if view.samples))
