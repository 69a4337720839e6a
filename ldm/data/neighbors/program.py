"""The program `python -m ldm.data.neighbors`: neighbours beside the samples of shards, and of single images and prompts."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from omegaconf import DictConfig
from torch import Tensor
from tqdm.auto import tqdm

from ldm.config import build, build_trusted, packages_of, resolved
from ldm.data.bad_samples import BadSampleCounter
from ldm.data.datamodule import CaptionedImages
from ldm.data.dataset import ShardDataset
from ldm.data.neighbors.copies import ShardCopier
from ldm.data.neighbors.database import INDEX, NeighborDatabase, check_count, embed_shards, open_database
from ldm.data.neighbors.queries import Query, answers_folder, image_queries, prompt_queries, write_answers
from ldm.data.neighbors.search import NeighborSearch, import_faiss
from ldm.data.rewriting import claim, typed_names
from ldm.data.shards.dataset_index import DatasetIndex, index_shards
from ldm.data.shards.names import find_shards
from ldm.data.sources.icons import Icons
from ldm.data.transforms import ImageTransform
from ldm.files.output_folder import OutputFolder
from ldm.files.tensors import DTYPES
from ldm.options.rule import COUNT, FLAG, SEED, OneOf, Rule, check_all
from ldm.pretrained.device import find_device
from ldm.pretrained.retrieval import RetrievalEncoder, TextRetrievalEncoder

PLAN = "neighbors.json"
"""The file that says what a folder of shards with neighbours is for."""

OWN_FILES = re.compile(
    rf"(train|val)-\d{{6,}}\.tar|embeddings-\d{{6,}}\.safetensors|{re.escape(INDEX)}|{re.escape(PLAN)}"
)

OPTIONS: dict[str, Rule] = {
    "k": COUNT,
    "batch_size": COUNT,
    "dtype": OneOf(tuple(DTYPES)),
    "include_query": FLAG,
    "seed": SEED,
}
"""The rules of the program's own options."""


class Method(NamedTuple):
    """The parts that find neighbours.

    Attributes:
        encoder: Embeds images.
        search: Searches the embeddings.
        facts: The settings of both, as they are written beside an index.
    """

    encoder: RetrievalEncoder
    search: NeighborSearch
    facts: dict[str, Any]


def check_options(config: DictConfig) -> None:
    """Check the options of a command, those of its data apart, and that faiss is installed; nothing is written.

    Raises:
        ValueError: Where an option has a value that it cannot have, or options do not go together.
        ImportError: Where faiss is missing.
    """
    check_all(resolved(config), OPTIONS)
    has_data = config.data.get("source") is not None or config.data.get("train") is not None
    given = [name for name in ("images", "prompts") if config[name] is not None] + ["data"] * has_data
    if len(given) > 1:
        raise ValueError(f"{' and '.join(given)} were given, whose neighbours are to be found; give one of them")
    if not given:
        raise ValueError(
            "nothing was given whose neighbours are to be found; type data.train=SHARDS data.val=SHARDS, or with "
            "index=FOLDER images=FILE_OR_FOLDER or prompts=FILE"
        )
    if not has_data and config.index is None:
        raise ValueError(
            f"{given[0]}={config[given[0]]} needs index=FOLDER, a folder that this program wrote from shards"
        )
    if has_data and config.include_query:
        raise ValueError(
            "include_query=true is for images=... and prompts=...; beside a sample are its neighbours alone"
        )
    if config.index is not None and config.database is not None:
        raise ValueError("index and database were given, but an index has its database; give one of them")
    import_faiss()


def copy_shards(config: DictConfig) -> None:
    """Write copies of the shards of both splits with neighbours, and where no index was given, the index."""
    out = Path(config.out)
    folder = _folder(out)
    folder.check()
    device = find_device(config.device)
    data = _images(config)
    method = _method(config)
    data.need(())
    data.open()
    if data.encoding:
        raise ValueError("data.train are latents; give the images that they were made of, and encode the copies then")
    sets = {
        split: ShardDataset(index, ImageTransform(method.encoder.size), [], seed=data.seed)
        for split, index in (("train", data.train_set.index), ("val", data.val_set.index))
    }
    counters = {"train": data.bad_samples, "val": data.val_bad_samples}
    options = {"batch_size": config.batch_size, "workers": data.workers, "device": device}
    if config.index is None:
        base = sets["train"] if config.database is None else _database_set(config, data, method)
        check_count(config.k, len(base))
        facts = {**method.facts, "database": base.index.fingerprint}
        database = None
    else:
        facts, base = method.facts, None
        database = open_database(Path(config.index), method.search)
        check_count(config.k, len(database))
    prints = {split: dataset.index.fingerprint for split, dataset in sets.items()}
    with folder.lock():
        claim(out / PLAN, {**facts, "k": config.k, "written": config.dtype, **prints})
        if base is not None:
            counter = BadSampleCounter(data.bad_samples.max_broken)
            embed_shards(base, method.encoder, out, dtype=config.dtype, bad_samples=counter, **options)
            database = open_database(out, method.search)
        assert database is not None
        copier = ShardCopier(database, method.encoder, k=config.k, dtype=config.dtype, **options)
        for split, dataset in sets.items():
            done = copier.write(dataset, out, split, counters[split])
            print(f"{split}: " + ", ".join(f"{name}: {count}" for name, count in done.items()) + f", in {out}")
    _print_next("retrieval_icons" if isinstance(data.source, Icons) else "retrieval_augmented", out, database)


def answer_images(config: DictConfig, files: Sequence[str], read: Callable[[str, int], Tensor]) -> None:
    """Write the neighbours of images.

    Args:
        config: The options.
        files: Image files.
        read: Returns the image in a file at a size, `(3, H, W)` in [-1, 1].
    """
    out, method, database = _opened(config)
    device = find_device(config.device)

    def embed(queries: Sequence[Query]) -> Tensor:
        images = torch.stack([read(query.source, method.encoder.size) for query in queries])
        return method.encoder.embed_images(images.to(device))

    _answer(config, out, image_queries(files), embed, database)


def answer_prompts(config: DictConfig, prompts: Sequence[str]) -> None:
    """Write the neighbours of prompts.

    Args:
        config: The options.
        prompts: The prompts.

    Raises:
        ValueError: Where the encoder of the index knows no texts.
    """
    out, method, database = _opened(config)
    encoder, device = method.encoder, find_device(config.device)
    if not isinstance(encoder, TextRetrievalEncoder):
        raise ValueError(
            f"the encoder of index={config.index} knows no texts; build an index with encoder=clip, or give images=..."
        )
    _answer(
        config,
        out,
        prompt_queries(prompts),
        lambda queries: encoder.embed_texts([query.source for query in queries], device),
        database,
    )


def _answer(
    config: DictConfig,
    out: Path,
    queries: Sequence[Query],
    embed: Callable[[Sequence[Query]], Tensor],
    database: NeighborDatabase,
) -> None:
    starts = range(0, len(queries), config.batch_size)
    parts: list[NDArray[np.float32]] = [
        embed(queries[start : start + config.batch_size]).cpu().numpy()
        for start in tqdm(starts, desc="embedding", unit="batch")
    ]
    options = {"k": config.k, "dtype": config.dtype, "include_query": config.include_query}
    write_answers(out, queries, np.concatenate(parts), database, **options)
    print(f"neighbours of {len(queries)} {queries[0].kind}{'s' if len(queries) > 1 else ''} in {out}")
    print(f"next: python sample.py ckpt=RUN neighbors={shlex.quote(str(out))}")


def _opened(config: DictConfig) -> tuple[Path, Method, NeighborDatabase]:
    """Return the checked folder for answers, and the parts and the database of an index."""
    out = Path(config.out)
    answers_folder(out).check()
    method = _method(config)
    database = open_database(Path(config.index), method.search)
    check_count(config.k, len(database))
    return out, method, database


def _folder(out: Path) -> OutputFolder:
    """Return the folder for shards with neighbours, in which nothing else may lie."""
    begun = (out / PLAN).is_file()  # which is written before anything else
    return OutputFolder(out, option="out", is_own=lambda name: begun and OWN_FILES.fullmatch(name) is not None)


def _images(config: DictConfig) -> CaptionedImages:
    """Return the images of a command; none is read yet."""
    if config.data.get("source") is None and config.data.val is None:
        raise ValueError("data.val has no value; the validation images need neighbours, too: type data.val=SHARDS")
    data = build(config.data)
    if not isinstance(data, CaptionedImages):
        raise ValueError("neighbours are found of images with an index: data=shards, data=icons or data=openmoji")
    if data.weights:
        raise ValueError(
            "data.train is a mixture, whose weights copies do not have; give one data set at a time, each with an out=... of "
            "its own, and index=FOLDER for the others than the first"
        )
    return data


def _method(config: DictConfig) -> Method:
    """Return the parts that find neighbours: those that a command says, or those of its index."""
    if config.index is None:
        facts = {name: resolved(config[name]) for name in ("encoder", "search")}
        encoder = build(facts["encoder"])
        return Method(encoder, build(facts["search"]), {**facts, "signature": encoder.signature, "dtype": config.dtype})
    folder = Path(config.index)
    if not (folder / PLAN).is_file() or not (folder / INDEX).is_file():
        raise ValueError(
            f"index={folder} holds no finished index; give a folder that this program wrote from shards without index=..., "
            "or type that command again to go on"
        )
    known = json.loads((folder / PLAN).read_text())
    facts = {name: known[name] for name in ("encoder", "search", "signature", "dtype", "database")}
    packages = packages_of(resolved(config))
    encoder = build_trusted(facts["encoder"], packages)
    if encoder.signature != facts["signature"]:
        raise ValueError(
            f"the encoder of index={folder} was {facts['signature']}, and is {encoder.signature} now: its weights have changed; "
            "put them back, or build the index anew"
        )
    return Method(encoder, build_trusted(facts["search"], packages), facts)


def _database_set(config: DictConfig, data: CaptionedImages, method: Method) -> ShardDataset:
    """Return the images of the shards that `database` names."""
    names = find_shards(resolved(config.database), data.cache / "shards")
    index = DatasetIndex(index_shards(names, data.cache / "index", alone=True))
    BadSampleCounter(data.bad_samples.max_broken).check_index(index)
    if index.encoding:
        raise ValueError("the shards of database=... hold latents; give shards of images")
    return ShardDataset(index, ImageTransform(method.encoder.size), [], seed=data.seed)


def _print_next(experiment: str, out: Path, database: NeighborDatabase) -> None:
    options = {
        "conditioner.width": str(database.width),
        "data.train": typed_names(f"{out}/train-*.tar"),
        "data.val": typed_names(f"{out}/val-*.tar"),
    }
    words = " ".join(f"{name}={shlex.quote(value)}" for name, value in options.items())
    print(f"next: python train.py experiment={experiment} {words}")
