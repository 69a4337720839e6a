"""The time of a training step on some hardware, from its operations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from ldm.plan.memory import Resident
from ldm.plan.operations import Operations


class Speed(NamedTuple):
    """The seconds of a training step.

    Attributes:
        image: Seconds of an image on a device, forward and backward.
        update: Seconds of the optimiser's step and the averages.
        encoder: Seconds of an image in the frozen encoder, which are among those of `image`.
        basis: "estimated" or "measured".
        note: The assumptions.
    """

    image: float
    update: float
    encoder: float
    basis: str
    note: str

    def step(self, images: int) -> float:
        """Return the seconds of an optimiser step with so many images on each device."""
        return images * self.image + self.update


def estimate_speed(operations: Operations, resident: Resident, hardware: Mapping[str, Any], *, autocast: bool) -> Speed:
    """Estimate the speed from operations and the peak of a device.

    The update reads and writes weights, gradients, the optimiser's state and averages once, at the bandwidth of the memory.

    Args:
        operations: The operations of an image.
        resident: The bytes that are in memory all the time.
        hardware: The options of `configs/hardware/*.yaml`.
        autocast: Whether bf16 autocast is on.
    """
    utilization = hardware["utilization"]
    lower = hardware["tflops_bf16"] if autocast else hardware["tflops_fp32"]
    full = operations.full / (hardware["tflops_fp32"] * 1e12 * utilization)
    frozen = full + (operations.frozen - operations.full) / (lower * 1e12 * utilization)
    image = frozen + (operations.total - operations.frozen) / (lower * 1e12 * utilization)
    moved = 2 * (resident.trained + resident.optimizer + resident.averages) + resident.trained + 2 * resident.buckets
    return Speed(
        image=image,
        update=moved / (hardware["bandwidth"] * 1e9),
        encoder=frozen,
        basis="estimated",
        note=f"{utilization:.0%} of the peak, {lower:g} TFLOP/s; without validation, and reading data in time",
    )
