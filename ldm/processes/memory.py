"""The memory of this machine: an end with a message where it is short."""

from __future__ import annotations

import re
import sys

import psutil
import torch

WORDS = ("can't allocate memory", "out of memory")
"""Parts of the messages of torch and Pillow where a CPU has no memory left."""


def limit_memory(device: torch.device) -> None:
    """Let an allocation fail for which this machine has no memory now, where a program computes on a CPU.

    Without a limit the system gives memory that it does not have, and the whole machine comes to a standstill. The limit is that
    of Linux for data; other systems have none that serves.

    Args:
        device: Where the program computes. A GPU says by itself when its memory is short.
    """
    if device.type != "cpu" or sys.platform != "linux":
        return
    import resource  # not on Windows

    _, most = resource.getrlimit(resource.RLIMIT_DATA)
    free = psutil.Process().memory_info().data + psutil.virtual_memory().available + psutil.swap_memory().free
    resource.setrlimit(resource.RLIMIT_DATA, (free if most == resource.RLIM_INFINITY else min(free, most), most))


def short_memory(error: BaseException) -> str | None:
    """Return a description of the memory that an error says is missing; None for other errors."""
    text = str(error).partition("\n")[0]
    if isinstance(error, torch.OutOfMemoryError):
        return text.partition(" If reserved")[0]  # what follows is advice about fragments of memory
    on_cpu = isinstance(error, RuntimeError | OSError) and any(words in text for words in WORDS)
    if not on_cpu and not isinstance(error, MemoryError):
        return None
    asked = re.search(r"allocate (\d+) bytes", text)
    lacking = f"{int(asked[1]) / 2**30:.2f} GiB more were asked for" if asked else "more was asked for"
    memory = psutil.virtual_memory()
    return f"{lacking}, and this machine has {memory.total / 2**30:.1f} GiB of memory, of which other programs use some"
