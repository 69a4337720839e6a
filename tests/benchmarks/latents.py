"""Measure the time that cached latents save: a training step of stage 2 from images beside one from latents, in one run.

python -m tests.benchmarks.latents

Steps of both kinds take turns. Printed is the median of their ratios, reading included. The autoencoders have random
weights, which changes no time.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from ldm.batch import Batch
from ldm.config import build, compose
from ldm.data.datamodule import CaptionedImages
from ldm.encode.encoder import LatentEncoder, encode

STEPS = 30


def endless(data) -> Iterator[Batch]:
    loader = data.train_dataloader()
    while True:
        yield from loader


def step(model, optimizer, batches: Iterator[Batch]) -> float:
    start = time.perf_counter()
    with torch.autocast("cpu", torch.bfloat16):
        loss = model.loss(next(batches)).mean()
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    return time.perf_counter() - start


def measure(title: str, folder: Path, overrides: list[str], steps: int = STEPS) -> None:
    config = compose(
        "train",
        [
            "experiment=txt2img",
            f"paths.data_dir={folder}",
            "data.cache_latents=false",
            "data.source.count=16",
            *overrides,
        ],
    )
    images = build(config.data)
    model = build(config.model)
    model.conditioner.prepare(fields for _, fields in images.samples(["caption"], 1000))
    model.autoencoder.eval()
    out = folder / title.replace(" ", "-")
    encode(images, LatentEncoder(model.autoencoder, flip=False, dtype="float32"), out, batch_size=16)
    val = f"{images.source.folder}/val-*.tar"
    latents = CaptionedImages(size=images.size, train=f"{out}/train-*.tar", val=val, cache=folder / "cache")
    streams = []
    for data in (images, latents):
        data.set_batch(32, 1, 1)
        streams.append(endless(data))
    optimizer = torch.optim.AdamW(model.denoiser.parameters(), fused=True)
    model.train()
    for stream in streams:
        step(model, optimizer, stream)
    ratios = [step(model, optimizer, streams[0]) / step(model, optimizer, streams[1]) for _ in range(steps)]
    low, middle, high = (part(ratios) for part in (min, statistics.median, max))
    print(f"{title}: a step from images takes {middle:.2f} x as long as one from latents ({low:.2f} to {high:.2f})")


def main() -> None:
    torch.backends.cuda.enable_flash_sdp(False)
    with tempfile.TemporaryDirectory() as folder:
        measure("icons, 32 x 32, their small autoencoder", Path(folder), [])
        measure("icons, 64 x 64, KL-f8 of the paper", Path(folder), ["autoencoder=kl_f8", "data.size=64"])


if __name__ == "__main__":
    main()
