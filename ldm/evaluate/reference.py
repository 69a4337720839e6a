"""Real images that generated ones are compared with, and what is known of their features: read, or computed once and kept."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from tqdm.auto import tqdm

from ldm.batch import Size, of_one_size
from ldm.data.base import DataModule
from ldm.evaluate.images import DatasetImages, FolderImages, RealImages, ShardImages
from ldm.evaluate.processes import Place
from ldm.files.tensors import write_tensors
from ldm.files.waiting import wait_for
from ldm.metric.reference_file import cached_reference, read_reference, reference_file
from ldm.metric.statistics import Reference, ReferenceBuilder, Statistics, evenly_spaced
from ldm.pretrained.extractor import Extractor

CHUNK = 2**15
"""Images of a chunk, the unit in which the work on a large reference is shared among processes."""

STATISTICS = (".npz", ".pt", ".safetensors")
"""Endings of files of statistics."""


class ReferenceSource(ABC):
    """The base class of what generated images are compared with.

    Attributes:
        name: A description for the results.
    """

    name: str

    @abstractmethod
    def reference(self, extractor: Extractor, kept: int, *, device: torch.device, place: Place) -> Reference | None:
        """Return the statistics of the features of real images; None on processes after the first, which only help.

        Args:
            extractor: The network, on the device.
            kept: Number of images whose single features are wanted, at most.
            device: Where the network computes.
            place: The place of this process.
        """


class StatisticsFile(ReferenceSource):
    """A file of statistics, our own or another program's.

    Args:
        file: The file.
        batch_size: Images at once, where the file holds images.

    Raises:
        FileNotFoundError: If there is none.
    """

    def __init__(self, file: str, *, batch_size: int) -> None:
        if not Path(file).is_file():
            raise FileNotFoundError(f"no file reference={file}; give statistics, a folder of images, or shards")
        self.name = file
        self.batch_size = batch_size

    def reference(self, extractor: Extractor, kept: int, *, device: torch.device, place: Place) -> Reference | None:
        """See `ReferenceSource.reference`."""
        if place.rank:
            return None
        return read_reference(self.name, extractor, real_features=kept, batch_size=self.batch_size, device=device)


class ImageReference(ReferenceSource):
    """Real images, whose features are computed once and kept.

    Args:
        name: A description of the images.
        images: The images.
        cache: Folder for what is known of them; all processes see it.
        batch_size: Images at once.
    """

    def __init__(self, name: str, images: RealImages, *, cache: Path, batch_size: int) -> None:
        self.name = name
        self.images = images
        self.cache = cache
        self.batch_size = batch_size

    def reference(self, extractor: Extractor, kept: int, *, device: torch.device, place: Place) -> Reference | None:
        """See `ReferenceSource.reference`."""
        file = reference_file(self.cache, self.images.fingerprint, extractor.signature, kept)
        if (kept_before := cached_reference(file, extractor.signature)) is not None:
            return kept_before
        total = len(self.images)
        chosen = evenly_spaced(total, kept)
        chunks = [range(first, min(first + CHUNK, total)) for first in range(0, total, CHUNK)]
        files = [file.with_suffix(f".{number:04d}-of-{len(chunks):04d}.part") for number in range(len(chunks))]
        own = [pair for pair in place.share(list(zip(chunks, files))) if _read(pair[1]) is None]
        with tqdm(
            total=sum(len(chunk) for chunk, _ in own),
            desc=f"reference statistics ({extractor.signature})",
            unit="image",
            disable=place.rank > 0,
        ) as bar:
            for chunk, part in own:
                builder = ReferenceBuilder(extractor, chosen)
                for numbers in of_one_size(chunk, self.images.size_of, self.batch_size):
                    found = self.images.read(numbers)
                    if found.numbers:
                        builder.update(found.images.to(device), found.numbers)
                    bar.update(len(numbers))
                write_tensors(part, _state(builder))
        if place.rank:
            return None
        wait_for(lambda part: _read(part) is not None, files)
        merged = _merged([state for part in files if (state := _read(part)) is not None], kept=bool(kept))
        merged.write(file, extractor.signature)
        for part in files:
            part.unlink(missing_ok=True)
        return merged


def reference_source(
    reference: str | None, data: DataModule | None, size: Size | None, *, cache: Path, batch_size: int
) -> ReferenceSource:
    """Return the reference that an option names.

    Args:
        reference: A file of statistics, a folder of images, shards, "train" for the training images of the data module; None:
            its validation images.
        data: The data module; None: there is none.
        size: Height and width to which images of folders and shards are resized and cut at the centre; None: those of a folder
            stay as they are.
        cache: Folder for what is known of real images.
        batch_size: Images at once.

    Raises:
        FileNotFoundError: If there is nothing of that name.
        ValueError: If no data are known, or no size for images of shards.
    """
    if reference in (None, "train"):
        if data is None and reference == "train":
            raise ValueError(
                "reference=train names the training images of a run, and none is known here; name the shards, or a folder of "
                "images: reference='shards/train-*.tar'"
            )
        if data is None:
            raise ValueError(
                "what are the images compared with? give reference=FILE.npz, a folder of images or shards, or the data of the "
                "model: data.val='shards/val-*.tar'"
            )
        images = DatasetImages.of_training(data) if reference == "train" else DatasetImages.of_validation(data)
        return ImageReference(reference or "val", images, cache=cache, batch_size=batch_size)
    assert reference is not None
    if reference.endswith(STATISTICS):
        return StatisticsFile(reference, batch_size=batch_size)
    if Path(reference).exists() and not reference.endswith(".tar"):
        return ImageReference(reference, FolderImages(reference, size), cache=cache, batch_size=batch_size)
    if not Path(reference).exists() and not Path(reference).suffix and not any(mark in reference for mark in "*?[{:"):
        raise FileNotFoundError(
            f"there is nothing at reference={reference}; give statistics (.npz, .pt), a folder of images, shards, or train"
        )
    if size is None:
        raise ValueError(
            f"the images are of several sizes, and those of reference={reference} are resized to one; give size=, to which all "
            "are resized and cut"
        )
    return ImageReference(reference, ShardImages(reference, size, cache), cache=cache, batch_size=batch_size)


def _state(builder: ReferenceBuilder) -> dict[str, torch.Tensor]:
    return {
        "count": torch.tensor(builder.count),
        "mean": builder.mean,
        "scatter": builder.scatter_about(builder.mean),
        "features": builder.store.ordered(),
    }


def _merged(states: Sequence[dict[str, torch.Tensor]], *, kept: bool) -> Reference:
    """Return the combined statistics of chunks, in their order."""
    count = sum(int(state["count"]) for state in states)
    mean = sum((int(state["count"]) * state["mean"] for state in states), torch.zeros_like(states[0]["mean"]))
    mean = mean / max(count, 1)
    scatter = torch.zeros_like(states[0]["scatter"])
    for state in states:
        step = state["mean"] - mean
        scatter += state["scatter"] + int(state["count"]) * torch.outer(step, step)
    features = torch.cat([state["features"] for state in states]) if kept else None
    return Reference(Statistics.of_scatter(count, mean, scatter), features)


def _read(file: Path) -> dict[str, torch.Tensor] | None:
    try:
        return load_file(file)
    except (OSError, SafetensorError):
        return None
