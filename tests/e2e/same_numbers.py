"""Read and record the numbers of a tiny run: python -m tests.e2e.same_numbers RUN SAMPLES FILE."""

from __future__ import annotations

import csv
import hashlib
import json
import platform
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image

PREFIXES = ("train/", "val/", "eval/")


def machine() -> str:
    """Return what must be equal for two runs to give the same bits: processor, kernels, threads, PyTorch."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith(("cpu family", "model"))][:3]
    model = " ".join(names) or platform.processor()
    kernels = torch.backends.cpu.get_cpu_capability()
    return f"{model} / {kernels} / {torch.get_num_threads()} threads / torch {torch.__version__}"


def losses(run: Path) -> dict[str, float]:
    """Return what a run has logged: "stage/step/name" -> value."""
    found = {}
    for file in sorted(run.glob("*/logs/metrics.csv")):
        with file.open() as lines:
            for row in csv.DictReader(lines):
                for name, value in row.items():
                    if value and name.startswith(PREFIXES):
                        found[f"{file.parent.parent.name}/{row['step']}/{name}"] = float(value)
    return found


def pixels(samples: Path) -> dict[str, list[float | str]]:
    """Return of each image its name -> the hash of its pixels, their mean and deviation."""
    found = {}
    for file in sorted(samples.glob("0*.png")):
        levels = np.asarray(Image.open(file))
        digest = hashlib.sha256(levels.tobytes()).hexdigest()
        found[file.name] = [digest, float(levels.mean()), float(levels.std())]
    return found


if __name__ == "__main__":
    run, samples, file = map(Path, sys.argv[1:])
    record = {"rounded": {}, "machine": machine(), "losses": losses(run), "pixels": pixels(samples)}
    file.write_text(json.dumps(record, indent=1) + "\n")
