"""The scores of several checkpoints over their steps, as a table and as a picture."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from ldm.files.whole import write_whole

CURVE, PICTURE = "curve.csv", "curve.png"

STEP = re.compile(r"step-(\d+)")
"""The number of a checkpoint's step in its name."""


def step_of(ckpt: str) -> int | None:
    """Return the step of a checkpoint, which its name tells; None where it does not."""
    found = STEP.search(Path(ckpt).name)
    return int(found.group(1)) if found else None


def write_curve(folder: Path, results: Sequence[Mapping[str, Any]]) -> None:
    """Write the scores of checkpoints over their steps, or over their places where names tell no steps.

    Args:
        folder: The folder.
        results: Those of each checkpoint.
    """
    steps = [step_of(result["of"]) for result in results]
    told = None not in steps
    rows = sorted(zip(steps if told else range(len(results)), results, strict=True), key=lambda row: int(row[0] or 0))
    names = list(results[0]["scores"])
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["step" if told else "place", "checkpoint", "images", *names])
    for place, result in rows:
        writer.writerow([place, result["of"], result["count"], *(result["scores"].get(name) for name in names)])
    write_whole(folder / CURVE, text.getvalue())
    figure = Figure(figsize=(4 * len(names), 3.2), layout="constrained")
    for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        axes.plot([place for place, _ in rows], [result["scores"].get(name) for _, result in rows], marker="o")
        axes.set_title(name)
        axes.set_xlabel("step" if told else "place of the checkpoint")
        axes.grid(alpha=0.3)
    figure.savefig(folder / PICTURE, dpi=110)
