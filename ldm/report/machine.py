"""The machine that a run is trained on, and the versions of what it is trained with."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from ldm import __version__

PACKAGES = (
    *("torch", "pytorch-lightning", "hydra-core", "omegaconf", "webdataset", "torchmetrics", "transformers"),
    *("numpy", "pillow", "safetensors"),
)
"""Packages whose versions may change numbers."""

CPU_FILE = Path("/proc/cpuinfo")


def hardware(*, accelerator: str, precision: str, processes: int) -> dict[str, str]:
    """Describe the hardware and software of a run, name -> text; neither the machine's name nor its address.

    Args:
        accelerator: Lightning's name of what trains: "cpu", "gpu".
        precision: Lightning's name of the number format, like "bf16-mixed".
        processes: Number of processes that train together.
    """
    found = {
        "processor": _processor(),
        "cores": str(len(os.sched_getaffinity(0)) if _has_affinity() else os.cpu_count()),
    }
    found["memory"] = f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB"
    if accelerator != "cpu" and torch.cuda.is_available():
        names = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
        found["GPUs of a node"] = ", ".join(f"{names.count(name)} x {name}" for name in dict.fromkeys(names))
    found |= {"trained on": accelerator, "precision": precision, "processes": str(processes)}
    found["threads of a process"] = str(torch.get_num_threads())
    return found


def versions() -> dict[str, str]:
    """Return name -> version of this program, Python, the system and the packages that decide numbers."""
    found = {
        "ldm": __version__,
        "Python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
    }
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    if torch.version.cuda is not None:
        found["CUDA"] = torch.version.cuda
    return found


def _has_affinity() -> bool:
    """Return whether the system tells which cores a process may use; macOS does not."""
    return platform.system() == "Linux"


def _processor() -> str:
    """Return the name of the processor, as well as the system knows it."""
    lines = CPU_FILE.read_text(errors="replace").splitlines() if CPU_FILE.is_file() else []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())
