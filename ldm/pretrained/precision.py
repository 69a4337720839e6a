"""Computing in fp32 where the rest of a model computes under autocast, and in float64 where the device has none."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

FULL_PRECISION: ContextVar[bool] = ContextVar("full_precision", default=False)
"""True within `full_precision` on the meta device, for who counts there what a device would do."""


NO_FLOAT64 = {"mps"}
"""Types of devices that have no float64: Apple's GPUs."""


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Turn autocast off within.

    The meta device, whose tensors hold no values, has no autocast; there only `FULL_PRECISION` is set.

    Args:
        device: The device of the tensors that are computed with.
    """
    if device.type != "meta":
        with torch.autocast(device.type, enabled=False):
            yield
        return
    token = FULL_PRECISION.set(True)
    try:
        yield
    finally:
        FULL_PRECISION.reset(token)


def without_tf32() -> None:
    """Let GPUs compute fp32 as it is from now on: with TF32, rounding depends on the batch that an image is in."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False


def float64(values: Tensor) -> Tensor:
    """Return values in float64: on their device, or on the CPU where that has no float64."""
    return values.to(float64_device(values.device)).double()


def float64_device(device: torch.device) -> torch.device:
    """Return a device, or the CPU where that has no float64."""
    return device if has_float64(device) else torch.device("cpu")


def has_float64(device: torch.device) -> bool:
    """Return whether a device has float64."""
    return device.type not in NO_FLOAT64
