"""Space on disk, and whether images are better encoded once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ldm.autoencoder.derived import underlying_fields
from ldm.conditioner.huggingface import HuggingFaceConditioner
from ldm.conditioner.text import text_parts
from ldm.plan.figure import COUNTED, ESTIMATED, Figure, shown
from ldm.plan.latent_workload import LatentWorkload
from ldm.plan.memory import Resident
from ldm.plan.workload import Workload

IMAGE_BYTES = 25_000
"""Bytes of a JPEG of 256 x 256 pixels: LAION-400M has 10 TB of them, with captions (laion.ai/blog/laion-400-open-dataset)."""

FILE_BYTES = 1536
"""Bytes of a sample's file of latents beside the moments: the header of the tar, of safetensors and how the latents were made."""

WORTH = 0.05
"""The share of the time from which encoding once is advised."""


def disk_rows(workload: Workload, resident: Resident, *, images: float | None) -> Iterator[Figure]:
    """Yield the files that a stage writes and reads, with their sizes.

    Args:
        workload: The stage.
        resident: The bytes that are in memory all the time.
        images: Images of the training set; None: unknown.
    """
    config, stage = workload.config, workload.stage
    if images is not None and "source" not in config.data:
        each = IMAGE_BYTES * workload.size.height * workload.size.width / 256**2
        note = f"{each / 1e3:.0f} kB an image, as a JPEG of 256 x 256 of LAION-400M"
        yield Figure("images", images * each, "bytes", ESTIMATED, note)
    checkpoint = stage.callback_configs.get("checkpoint") or {}
    kept = int(checkpoint.get("keep", 1)) + (checkpoint.get("best") is not None)
    averaged = resident.trained if resident.averages else 0
    size = resident.trained + averaged + resident.optimizer + max(0, resident.averages - averaged)
    yield Figure("a checkpoint", size, "bytes", COUNTED, "weights, averages and the optimiser's state")
    yield Figure(
        "checkpoints kept", size * kept + resident.frozen, "bytes", COUNTED, f"{kept}, and once what is frozen"
    )
    yield Figure("the finished model", sum(part.nbytes for part in workload.task.model.parameters()), "bytes", COUNTED)
    power = stage.callback_configs.get("power_ema") or {}
    if power.get("lengths"):
        count = len(power["lengths"]) * -(-stage.steps // int(power["every_n_steps"]))
        each = resident.trained * (2 if power.get("dtype") == "float16" else 4) / 4
        yield Figure("snapshots of averages", count * each, "bytes", COUNTED, f"{count} of them")


def cache_rows(workload: LatentWorkload, *, images: float | None) -> Iterator[Figure]:
    """Yield the space that cached latents and tokens take.

    Args:
        workload: A stage in latent space.
        images: Images of the training set; None: what one takes.
    """
    count, each = (1.0, " of an image") if images is None else (images, "")
    flips = 2 if workload.config.data.get("flip", False) else 1
    one = workload.moments(1).numel() * 4 * flips + FILE_BYTES
    note = "fp32; half with dtype=float16" + (", and as much for the mirrored image" if flips == 2 else "")
    yield Figure(f"cached latents{each}", count * one, "bytes", COUNTED, note)
    for part in _frozen_texts(workload):
        tokens = part.max_tokens * part.width * 4
        yield Figure(f"cached tokens{each}", count * tokens, "bytes", COUNTED, "fp32, with one caption an image")


def cache_advice(
    workload: LatentWorkload, *, images: float | None, share: float, encode_seconds: float, gpus: int
) -> list[str]:
    """Return advice on whether to cache the latents, and why.

    Args:
        workload: A stage in latent space that reads images.
        images: Images of the training set; None: unknown.
        share: The encoder's share of the time of a step, in [0, 1].
        encode_seconds: Seconds in which a device encodes an image.
        gpus: Devices that train together.
    """
    stage, data = workload.stage, workload.config.data
    reasons = list(_obstacles(workload, data))
    message = f"the encoder takes {share:.0%} of the time of a step"
    if reasons:
        return [f"cache the latents: no, since {'; and '.join(reasons)}. ({message[0].upper()}{message[1:]}.)"]
    if images is None:
        return [f"cache the latents: give images=NUMBER to get an answer; {message}"]
    epochs = stage.steps * stage.batch_size / images
    one_pass, whole = images * encode_seconds / 3600, epochs * images * encode_seconds / 3600
    space = sum(row.value for row in cache_rows(workload, images=images) if "latents" in row.name)
    facts = (
        f"{message}, over {epochs:,.3g} epochs {whole:,.3g} device-hours; encoding once takes {one_pass:,.3g} and "
        f"{shown(space, 'bytes')} of disk"
    )
    if epochs <= 1 or share < WORTH:
        return [f"cache the latents: no, it is hardly worth it: {facts}"]
    flip = " flip=true" if data.get("flip", False) else ""
    text = " text=true" if _frozen_texts(workload) else ""
    lines = [f"cache the latents: yes: {facts}"]
    features = " alignment=repa" if workload.aligned else ""
    lines.append(f"  python -m ldm.encode autoencoder.ckpt=RUN data.train=... out=latents{flip}{text}{features}")
    lines.append("  then train with data=latents data.train='latents/train-*.tar'")
    if workload.aligned:
        lines.append("  the features of the vision encoder take more disk, which is not counted here")
    if _trained_texts(workload):
        lines.append("  the tokens of captions cannot be cached: their transformer is trained, too")
    return lines


def _obstacles(workload: LatentWorkload, data: Mapping[str, Any]) -> Iterator[str]:
    """Yield why latents cannot be cached."""
    if data.get("crop") == "random":
        yield "data.crop=random cuts an image elsewhere each time (data.crop=center would not)"
    if data.get("buckets") is not None:
        yield "data.buckets cuts images to several sizes"
    if "image" in underlying_fields(workload.task.inputs):
        yield "the conditioner reads the images themselves"


def _frozen_texts(workload: LatentWorkload) -> Sequence[HuggingFaceConditioner]:
    return [part for part in text_parts(workload.model) if isinstance(part, HuggingFaceConditioner)]


def _trained_texts(workload: LatentWorkload) -> bool:
    return any(not isinstance(part, HuggingFaceConditioner) for part in text_parts(workload.model))
