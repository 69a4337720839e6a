"""Measure how long a user waits: for help, for `import ldm`, and for the first training step of the quickstart.

python -m tests.benchmarks.startup

Printed are medians in seconds, each of whole processes with the files in the system's cache.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time

from tests.conftest import ROOT

PROGRAMS = (
    *("train.py --help", "sample.py --help", "-m ldm.data.pack --help", "-m ldm.encode --help"),
    *("-m ldm.ema --help", "-m ldm.data.sources.icons --help", "-m ldm.data.sources.openmoji --help"),
    *("train.py experiment=txt2imag", "-c 'import ldm'"),
)
"""Command lines that end by themselves."""

FIRST_STEP = """
import os, runpy, sys
import ldm
from ldm.task.autoencoder import AutoencoderTask
step = AutoencoderTask.training_step
def first(self, batch, index):
    step(self, batch, index)
    os._exit(0)
AutoencoderTask.training_step = first
sys.argv = ["train.py", *sys.argv[1:]]
runpy.run_path("train.py", run_name="__main__")
"""
"""A program that runs `train.py` until its first training step is made."""


def seconds(arguments: list[str]) -> float:
    """Return how long a Python process takes, in seconds."""
    start = time.monotonic()
    subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, check=False)
    return time.monotonic() - start


def first_step(*overrides: str) -> float:
    """Return the seconds from the start of the quickstart's command to the end of its first training step, data included."""
    with tempfile.TemporaryDirectory() as folder:
        places = [f"paths.data_dir={folder}/data", f"paths.runs_dir={folder}/runs"]
        return seconds(["-c", FIRST_STEP, "experiment=txt2img", *places, *overrides])


def main(rounds: int = 5) -> None:
    """Measure all in turns and print a table."""
    found: dict[str, list[float]] = {}
    for _ in range(rounds):
        for program in PROGRAMS:
            arguments = ["-c", "import ldm"] if program.startswith("-c") else program.split()
            found.setdefault(f"python {program}", []).append(seconds(arguments))
        found.setdefault("first step of experiment=txt2img", []).append(first_step())
    for name, times in found.items():
        print(f"{statistics.median(times):6.2f} s  {name}")


if __name__ == "__main__":
    main()
