"""The device that a program computes on."""

from __future__ import annotations

import os

import torch


def find_device(name: str | None, local: int | None = None) -> torch.device:
    """Return the device that is named, or the GPU of this process, or the CPU.

    Args:
        name: Name of the device, like `cuda:1`; None: the GPU where there is one.
        local: Number of this process on its machine, which chooses its GPU; None: the one that torchrun has given it.

    Raises:
        ValueError: Where there is no such device.
    """
    if local is None:
        local = int(os.environ.get("LOCAL_RANK", 0))
    name = name or (f"cuda:{local}" if torch.cuda.is_available() else "cpu")
    try:
        torch.zeros(1, device=name).tolist()  # some, like meta, hold no numbers
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"there is no device={name} here ({reason}); say device=cpu") from error
    return torch.device(name)
