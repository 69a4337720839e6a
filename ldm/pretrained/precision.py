"""Computing in fp32 where the rest of a model computes under autocast, and in float64 where the device has none."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

FULL_PRECISION: ContextVar[bool] = ContextVar("full_precision", default=False)
"""True within `full_precision` on the meta device, for who counts there what a device would do."""

FULL = "32-true"

PRECISIONS = (FULL, "bf16-mixed")
"""The precisions of networks, with the names that Lightning gives them."""

_ENCODING: ContextVar[str] = ContextVar("encoding", default=FULL)

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


@contextmanager
def computing_in(precision: str, device: torch.device) -> Iterator[None]:
    """Compute in a precision within, whatever autocast is on around.

    On the meta device, which has no autocast, only `FULL` changes anything.

    Args:
        precision: One of `PRECISIONS`.
        device: The device of the tensors that are computed with.
    """
    if precision == FULL:
        with full_precision(device):
            yield
    elif device.type == "meta":
        yield
    else:
        with torch.autocast(device.type, dtype=torch.bfloat16):
            yield


@contextmanager
def encoding_in(precision: str) -> Iterator[None]:
    """Let frozen first stages encode images in a precision inside the block; outside they use fp32.

    Args:
        precision: One of `PRECISIONS`.
    """
    token = _ENCODING.set(precision)
    try:
        yield
    finally:
        _ENCODING.reset(token)


def encoding_precision() -> str:
    """Return the precision in which frozen first stages encode images here; see `encoding_in`."""
    return _ENCODING.get()


def without_tf32() -> None:
    """Turn TF32 off on GPUs: with it, rounding depends on the batch that an image is in."""
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
