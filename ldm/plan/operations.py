"""The floating-point operations of a training step, part by part."""

from __future__ import annotations

from collections import Counter
from contextlib import AbstractContextManager
from typing import NamedTuple

import torch

from ldm.plan.autoencoder_workload import AutoencoderWorkload
from ldm.plan.count import counted_flops
from ldm.plan.kernels import DeviceKernels
from ldm.plan.workload import Workload
from ldm.pretrained.precision import FULL

FROZEN = ("encoder", "encoder of masked images", "network of images")
"""Parts of stage 2 that are frozen and read images. The last is computed in fp32 also under autocast, the others by default."""


class Operations(NamedTuple):
    """The operations of a training step for an image.

    Attributes:
        forward: Name of a part -> operations of its forward pass.
        backward: The operations of the backward pass through all parts.
        frozen: Operations of frozen networks that read images, which are among those of the forward pass.
        full: Operations that are computed in fp32 also under autocast, which are among those of frozen networks.
    """

    forward: dict[str, int]
    backward: int
    frozen: int
    full: int

    @property
    def total(self) -> int:
        """All operations."""
        return sum(self.forward.values()) + self.backward


def count_operations(workload: Workload, *, adversarial: bool = True, images: int = 1) -> Operations:
    """Count the operations of a training step, without those of the optimiser.

    Matrix products, convolutions and attention count, as `torch.utils.flop_counter` counts them: a multiplication and an
    addition are two operations. Elementwise operations and norms do not.

    Args:
        workload: The stage, on the meta device.
        adversarial: Whether the discriminator takes part.
        images: Images in the batch that is counted.

    Returns:
        The operations for an image.
    """
    found: Counter[str] = Counter()

    def meter(part: str) -> AbstractContextManager[object]:
        return counted_flops(lambda number: found.update({part: number}))

    with DeviceKernels(accelerator="cpu", autocast=False, fused=False):
        workload.metered(workload.batch(images), meter, adversarial=adversarial)
        if isinstance(workload, AutoencoderWorkload):
            _split_autoencoder(workload, found, adversarial=adversarial, images=images)
    for part in workload.task.parameters():
        part.grad = None
    return _summed({name: number // images for name, number in found.items()}, workload.encodes_in)


def is_full(part: str, encodes_in: str) -> bool:
    """Return whether a part is computed in fp32 also under autocast.

    Args:
        part: Name of the part.
        encodes_in: The precision in which frozen first stages encode.
    """
    return part in FROZEN and (encodes_in == FULL or part == FROZEN[-1])


def _split_autoencoder(workload: AutoencoderWorkload, found: Counter[str], *, adversarial: bool, images: int) -> None:
    """Count encoder, LPIPS and discriminator by themselves; the rest of the losses is a part of the backward pass."""
    loss, shown = workload.task.loss, workload.images(images)
    with torch.no_grad():
        with counted_flops(lambda number: found.update({"encoder": number})):
            workload.task.model.encode(shown)
        if loss.perceptual is not None:
            with counted_flops(lambda number: found.update({"LPIPS": number})):
                loss.perceptual(shown, shown)
        if loss.discriminator is not None and adversarial:
            with counted_flops(lambda number: found.update({"discriminator": number})):
                loss.discriminator(shown)
    found["decoder"] = found.pop("autoencoder forward") - found["encoder"]
    found["backward"] += found.pop("losses") - found["LPIPS"] - found["discriminator"]


def _summed(found: dict[str, int], encodes_in: str) -> Operations:
    if "whole forward" not in found:
        forward = {name: number for name, number in found.items() if name != "backward" and number}
        return Operations(forward, found["backward"], 0, 0)
    before = {name: found.get(name, 0) for name in FROZEN}
    conditioner = found.get("conditioner forward", 0) - before["network of images"]
    whole = found["whole forward"] - sum(before.values()) - conditioner
    forward = {**before, "conditioner": conditioner, "network": whole}
    frozen = sum(before.values())
    full = sum(number for name, number in before.items() if is_full(name, encodes_in))
    return Operations({name: number for name, number in forward.items() if number}, found["backward"], frozen, full)
