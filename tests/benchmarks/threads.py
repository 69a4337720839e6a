"""Compare ways in which threads wait, by a training step of the icons' U-Net.

Steps are timed on a quiet machine and beside another busy process.

python -m tests.benchmarks.threads

Each way to wait has a process of its own, because OpenMP reads it once; quiet and busy take turns. Printed are medians
in milliseconds. The machine should have nothing else to do.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time

WAYS = {
    "OpenMP's default": {},
    "the project's": None,
    "always asleep": {"OMP_WAIT_POLICY": "passive"},
}
"""Name -> environment variables; None: those that `import ldm` sets."""

BUSY = "while True: pass"


def steps(count: int) -> float:
    """Return the median time of training steps in milliseconds."""
    import torch

    from ldm.batch import Batch
    from ldm.config import build, compose

    config = compose("train", ["experiment=txt2img", "trainer=cpu"])
    model = build(config.model)
    captions = ["a red heart on a white background"] * 32
    model.conditioner.prepare([{"caption": captions}])
    batch = Batch(captions, {"caption": captions, "moments": torch.randn(32, 8, 8, 8)})
    optimizer = torch.optim.AdamW([part for part in model.parameters() if part.requires_grad], fused=True)
    times = []
    for _ in range(count + 3):
        start = time.perf_counter()
        model.loss(batch).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        times.append(time.perf_counter() - start)
    return 1000 * statistics.median(times[3:])


def measure(way: dict[str, str] | None, count: int, *, busy: bool) -> float:
    """Return the time of a step in a new process that waits in this way."""
    environment = {
        name: value for name, value in os.environ.items() if name not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
    }
    if way is not None:
        environment |= {"GOMP_SPINCOUNT": "300000", **way}  # that of libgomp, so that ours is not set
    other = subprocess.Popen([sys.executable, "-c", BUSY]) if busy else None
    try:
        command = [sys.executable, "-m", "tests.benchmarks.threads", str(count)]
        return float(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)
    finally:
        if other is not None:
            other.kill()
            other.wait()


def main(count: int = 25, rounds: int = 3) -> None:
    """Measure all ways in turns and print a table."""
    print(f"{'a step in ms':20} {'quiet':>10} {'busy':>10}")
    found = {name: ([], []) for name in WAYS}
    for _ in range(rounds):
        for name, way in WAYS.items():
            for place, busy in zip(found[name], (False, True)):
                place.append(measure(way, count, busy=busy))
    for name, columns in found.items():
        print(f"{name:20}", *(f"{statistics.median(column):10.0f}" for column in columns))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(steps(int(sys.argv[1])))
    else:
        main()
