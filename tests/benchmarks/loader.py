"""Compare the speed of this project's data loader with a plain loop over tar files and with the loaders of others.

python -m tests.benchmarks.loader [FOLDER]

All decode by the same Pillow calls to the same float tensors in batches of 32; they differ in how they find and hand
over the bytes. Rounds are interleaved. Printed are medians, as ratios to the plain loop. litdata and mosaicml-streaming
take part if they can be imported.
"""

from __future__ import annotations

import importlib.util
import io
import random
import statistics
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
import webdataset
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader

from ldm.data.datamodule import CaptionedImages
from ldm.data.shards.names import write_shards
from ldm.files.picture import to_tensor

BATCH = 32
ROUNDS = 5


def picture(number: int, size: tuple[int, int]) -> Image.Image:
    """Return an image of smooth colours and some texture, which compresses about as a photograph does."""
    rng = np.random.default_rng(number)
    coarse = Image.fromarray(rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)).resize(size, Image.Resampling.BICUBIC)
    noise = rng.normal(0, 8, (size[1], size[0], 1))
    return Image.fromarray(np.clip(np.asarray(coarse) + noise, 0, 255).astype(np.uint8))


def write(folder: Path, count: int, size: tuple[int, int], form: str) -> list[dict]:
    """Write 4 training shards and a validation shard of images, and return the samples."""
    samples = []
    for number in range(count):
        data = io.BytesIO()
        picture(number, size).save(data, format={"jpg": "jpeg"}.get(form, form), quality=90)
        samples.append({"__key__": f"{number:06d}", form: data.getvalue(), "txt": f"caption {number}".encode()})
    write_shards(samples, folder, "train", samples_per_shard=count // 4)
    write_shards(samples[:32], folder, "val", samples_per_shard=32)
    return samples


def decode(data: bytes, side: int, *, draft: bool = True) -> Tensor:
    """Decode an image with Pillow alone, and resize and crop it to a square, `(3, side, side)` in [-1, 1]."""
    opened = Image.open(io.BytesIO(data))
    if draft and min(opened.size) >= 2 * side:
        opened.draft(None, (side, side))
    image = opened.convert("RGB")
    if min(image.size) != side:
        scale = side / min(image.size)
        image = image.resize(
            (round(image.width * scale), round(image.height * scale)), Image.Resampling.LANCZOS, reducing_gap=3.0
        )
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return to_tensor(image.crop((left, top, left + side, top + side)) if (left, top) != (0, 0) else image)


def batched(samples: Iterator[tuple[Tensor, str]]) -> Iterator[Tensor]:
    images: list[Tensor] = []
    for image, _ in samples:
        images.append(image)
        if len(images) == BATCH:
            yield torch.stack(images)
            images = []


def plain(folder: Path, side: int, *, draft: bool = True) -> Iterator[Tensor]:
    def samples() -> Iterator[tuple[Tensor, str]]:
        for shard in sorted(folder.glob("train-*.tar")):
            with tarfile.open(shard) as archive:
                image = None
                for member in archive:
                    data = archive.extractfile(member).read()  # type: ignore[union-attr]
                    if not member.name.endswith("txt"):
                        image = decode(data, side, draft=draft)
                    elif image is not None:
                        yield image, data.decode()

    return batched(samples())


def ours(folder: Path, side: int, workers: int) -> Iterator[Tensor]:
    data = CaptionedImages(
        size=side, train=f"{folder}/train-*.tar", val=f"{folder}/val-*.tar", cache=folder, workers=workers
    )
    data.set_batch(BATCH, 1, 1)
    return (batch.fields["image"] for batch in data.train_dataloader())


def of_webdataset(folder: Path, side: int, workers: int) -> Iterator[Tensor]:
    shards = [str(shard) for shard in sorted(folder.glob("train-*.tar"))]
    stream = webdataset.WebDataset(shards, shardshuffle=4, detshuffle=True, seed=0).shuffle(500)
    stream = stream.map(_Decode(side)).batched(BATCH, partial=False, collation_fn=_stack)
    return iter(DataLoader(stream, batch_size=None, num_workers=workers))


class _Decode:
    def __init__(self, side: int) -> None:
        self.side = side

    def __call__(self, sample: dict) -> tuple[Tensor, str]:
        text = sample["txt"]
        image = next(sample[form] for form in ("jpg", "png") if form in sample)
        return decode(image, self.side), text.decode() if isinstance(text, bytes) else text


def _stack(samples: list[tuple[Tensor, str]]) -> Tensor:
    return torch.stack([image for image, _ in samples])


def of_litdata(folder: Path, side: int, workers: int) -> Iterator[Tensor]:
    import litdata
    from litdata.streaming.writer import BinaryWriter

    out = folder / "litdata"
    if not out.is_dir():
        writer = BinaryWriter(str(out), chunk_size=1000)
        for index, sample in enumerate(_samples(folder)):
            writer.add_item(index, sample)
        writer.done()
        writer.merge(1)

    class Decoded(litdata.StreamingDataset):
        def __getitem__(self, index):
            return _Decode(side)(super().__getitem__(index))[0]

    dataset = Decoded(str(out), shuffle=True, drop_last=True)
    return iter(litdata.StreamingDataLoader(dataset, batch_size=BATCH, num_workers=workers))


def of_mosaic(folder: Path, side: int, workers: int) -> Iterator[Tensor]:
    import streaming

    out = folder / "mosaic"
    form = next(iter(set(next(_samples(folder))) - {"txt"}))
    if not out.is_dir():
        with streaming.MDSWriter(out=str(out), columns={form: "bytes", "txt": "bytes"}) as writer:
            for sample in _samples(folder):
                writer.write(sample)

    class Decoded(streaming.StreamingDataset):
        def __getitem__(self, index):
            return _Decode(side)(super().__getitem__(index))[0]

    streaming.base.util.clean_stale_shared_memory()
    dataset = Decoded(local=str(out), shuffle=True, batch_size=BATCH)
    return iter(DataLoader(dataset, batch_size=BATCH, num_workers=workers, drop_last=True))


def _samples(folder: Path) -> Iterator[dict]:
    for shard in sorted(folder.glob("train-*.tar")):
        for sample in webdataset.WebDataset([str(shard)], shardshuffle=False):
            yield {name: data for name, data in sample.items() if not name.startswith("__")}


def rate(batches: Callable[[], Iterator[Tensor]], images: int) -> float:
    """Return the number of images per second after the first batch, whose time includes the start."""
    stream = batches()
    next(stream)
    start, seen = time.perf_counter(), 0
    for batch in stream:
        seen += len(batch)
    assert seen + BATCH > images * 0.9, f"only {seen} of {images}"
    return seen / (time.perf_counter() - start)


def contenders(folder: Path, side: int) -> dict[str, Callable[[], Iterator[Tensor]]]:
    found: dict[str, Callable[[], Iterator[Tensor]]] = {
        "plain loop": lambda: plain(folder, side),
        "plain loop, no draft": lambda: plain(folder, side, draft=False),
    }
    others = {"ours": ours, "webdataset": of_webdataset}
    others |= {"litdata": of_litdata} if importlib.util.find_spec("litdata") else {}
    others |= {"mosaicml-streaming": of_mosaic} if importlib.util.find_spec("streaming") else {}
    for name, make in others.items():
        for workers in (0, 1, 2):
            found[f"{name}, {workers} workers"] = lambda make=make, workers=workers: make(folder, side, workers)  # type: ignore[misc]
    return found


def compare(folder: Path, title: str, count: int, size: tuple[int, int], side: int, form: str, rounds: int) -> None:
    """Run all loaders on one kind of image and print their ratios."""
    if not folder.is_dir():
        write(folder, count, size, form)
    runs = contenders(folder, side)
    rates: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name in random.sample(list(runs), len(runs)):
            rates[name].append(rate(runs[name], count))
    base = statistics.median(rates["plain loop"])
    print(f"\n{title}: the plain loop reads {base:,.0f} images/s")
    for name, values in rates.items():
        low, middle, high = (part(values) / base for part in (min, statistics.median, max))
        print(f"  {name:32} {middle:.2f}  ({low:.2f} to {high:.2f})")


def main() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(sys.argv[1] if len(sys.argv) > 1 else temporary)
        compare(root / "png", "64 x 64 PNG", 4096, (64, 64), 64, "png", ROUNDS)
        compare(root / "jpg-256", "768 x 512 JPEG at 256 x 256", 1024, (768, 512), 256, "jpg", ROUNDS)
        compare(root / "jpg-512", "768 x 512 JPEG at 512 x 512", 512, (768, 512), 512, "jpg", ROUNDS)


if __name__ == "__main__":
    main()
