"""Noticing that a training diverged: a loss, a gradient or a weight that is no finite number."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn

LOSS, GRADIENT, DISCRIMINATOR_LOSS, DISCRIMINATOR_GRADIENT, WEIGHTS = WATCHED = (
    "the loss",
    "the norm of the gradients",
    "the discriminator's loss",
    "the norm of the discriminator's gradients",
    "a weight",
)
"""The numbers that are watched, in the order in which they are computed within a step."""

NEVER = 2**62


class Diverged(ValueError):  # noqa: N818
    """A training ended because a number in it was not finite."""


class Fault(NamedTuple):
    """The first number that was not finite.

    Attributes:
        step: The optimiser step in which it came up, counted from 1.
        what: One of `WATCHED`.
    """

    step: int
    what: str


class Watch:
    """Remembers the first number that was not finite, without making the program wait for the device.

    The memory is a number on the device: each `see` adds three tiny operations to its queue. `noticed` copies it to the host
    in the background, and answers by the last copy that has arrived, so it may be some steps late; `fault` waits.
    """

    def __init__(self) -> None:
        self._first: Tensor | None = None
        self._copy: Tensor | None = None
        self._arrived: torch.cuda.Event | None = None

    def see(self, step: int, what: str, value: Tensor) -> None:
        """Look at a number of a step.

        Args:
            step: Optimiser steps made before.
            what: One of `WATCHED`.
            value: A scalar; its gradient is not touched.
        """
        found = torch.where(value.detach().isfinite(), NEVER, code_of(step, what))
        self._first = found if self._first is None else torch.minimum(self._first, found)

    def noticed(self) -> bool:
        """Return whether a fault is known to the host already."""
        if self._first is None:
            return False
        if self._first.device.type != "cuda":
            return int(self._first) < NEVER
        if self._arrived is None or self._copy is None:
            self._copy = torch.empty((), dtype=self._first.dtype, pin_memory=True)
            self._arrived = torch.cuda.Event()
        elif not self._arrived.query():
            return False
        elif int(self._copy) < NEVER:
            return True
        self._copy.copy_(self._first, non_blocking=True)
        self._arrived.record()
        return False

    def code(self) -> int:
        """Return the first fault as a number that grows with its step, `NEVER` where there is none. Waits for the device."""
        return NEVER if self._first is None else int(self._first)


def code_of(step: int, what: str) -> int:
    """Return the number that means a fault in the step after `step` others."""
    return (step + 1) * len(WATCHED) + WATCHED.index(what)


def fault_of(code: int) -> Fault | None:
    """Return the fault that a number of `Watch.code` means."""
    return None if code >= NEVER else Fault(code // len(WATCHED), WATCHED[code % len(WATCHED)])


@torch.no_grad()
def all_finite(tensors: Iterable[Tensor]) -> bool:
    """Return whether all values of floating-point tensors are finite. Waits for the device, once."""
    parts = [tensor for tensor in tensors if tensor.is_floating_point() and tensor.numel()]
    if not parts:
        return True
    return bool(torch.stack([end.isfinite() for part in parts for end in part.aminmax()]).all())


def check_finite(model: nn.Module) -> None:
    """Raise an error if a model holds numbers that no model should hold.

    Raises:
        ValueError: If a parameter holds an infinity or NaN, or a buffer holds NaN.
    """
    for name, tensor in model.named_parameters():
        if not all_finite([tensor]):
            raise ValueError(
                f"{name} of the trained model holds inf or nan, for the training diverged, so no model is written; train anew "
                "with a lower learning rate, or go on from an earlier checkpoint: delete the newest and repeat the command"
            )
    for name, buffer in model.named_buffers():
        if bool(buffer.isnan().any()):
            raise ValueError(f"{name} of the trained model holds nan, so no model is written; look for it in the data")
