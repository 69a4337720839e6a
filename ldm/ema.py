"""`python -m ldm.ema`: a finished model with its weights averaged over another length, chosen after training.

Paper: Karras et al., 2023, section 3.2, arXiv:2312.02696.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from omegaconf import DictConfig
from torch import Tensor
from tqdm.auto import tqdm

from ldm.checkpoint import CONFIG_KEY, MODEL_FILE, read
from ldm.config import command, resolved
from ldm.power_function import Profile, gamma_of, match
from ldm.snapshot import Snapshot, read_snapshots
from ldm.tensors import write_tensors

FOLDER = "diffusion/ema"
"""Of the snapshots in a run."""

POOR = 0.1
"""A residual from which on an average is hardly the wished one."""


class Averaged(NamedTuple):
    """A model that was written.

    residual  how far the profile of its average is from the wished one, as a share of that one's norm
    """

    file: Path
    length: float
    step: int
    snapshots: int
    residual: float

    def __str__(self) -> str:
        text = f"{self.file}: length {self.length} at step {self.step} from {self.snapshots} snapshots, "
        advice = "; lengths between those of the snapshots, and more snapshots, match better"
        return f"{text}its profile matched to {self.residual:.2%}{advice if self.residual > POOR else ''}"


def average(run: Path, lengths: Sequence[float], *, step: int | None = None, out: Path | None = None) -> list[Averaged]:
    """Write a run's finished model with averaged weights, `ema-0.075.safetensors`, for each length.

    step  of a snapshot, as of which to average; None: the last
    out   folder for the files; None: the run's

    Raises ValueError or FileNotFoundError where a length is none, the run has not ended, or has no such snapshots.
    """
    gammas = [gamma_of(length) for length in lengths]
    snapshots = _snapshots(run, step)
    config, weights = _finished(run)
    end = snapshots[-1].step
    profiles = [Profile(gamma_of(snapshot.length), snapshot.step) for snapshot in snapshots]
    matches = [match(profiles, Profile(gamma, end)) for gamma in gammas]
    written = []
    sums = combine(snapshots, [found.coefficients.tolist() for found in matches])
    for length, found, trained in zip(lengths, matches, sums, strict=True):
        name = f"ema-{length}.safetensors" if step is None else f"ema-{length}-step-{end:08d}.safetensors"
        file = (out or run) / name
        _write(file, config, weights, trained)
        written.append(Averaged(file, length, end, len(snapshots), found.residual))
    return written


def combine(snapshots: Sequence[Snapshot], coefficients: Sequence[Sequence[float]]) -> list[dict[str, Tensor]]:
    """Sums of the snapshots, one for each row of coefficients; each snapshot is read once, tensor by tensor."""
    sums: list[dict[str, Tensor]] = [{} for _ in coefficients]
    for number, snapshot in enumerate(tqdm(snapshots, desc="averaging", unit="snapshot")):
        for name, tensor in snapshot.tensors():
            for total, row in zip(sums, coefficients, strict=True):
                total.setdefault(name, torch.zeros_like(tensor)).add_(tensor, alpha=row[number])
    return sums


def _snapshots(run: Path, step: int | None) -> list[Snapshot]:
    """Those of a run up to a step."""
    found = read_snapshots(run / FOLDER)
    if not found:
        raise FileNotFoundError(
            f"no snapshots of averages in {run / FOLDER}; they are written while a run trains with "
            "'task.diffusion.callbacks.power_ema.lengths=[0.05,0.1]'"
        )
    steps = sorted({snapshot.step for snapshot in found})
    if step is not None and step not in steps:
        raise ValueError(f"no snapshot of step {step}; the last are of {', '.join(map(str, steps[-10:]))}")
    return [snapshot for snapshot in found if step is None or snapshot.step <= step]


def _finished(run: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Config and weights of the run's model."""
    if not (run / MODEL_FILE).is_file():
        raise FileNotFoundError(f"{run} has no {MODEL_FILE}, so the run has not ended; finish it by the same command")
    return read(run / MODEL_FILE)


def _write(file: Path, config: dict[str, Any], weights: dict[str, Tensor], trained: dict[str, Tensor]) -> None:
    """Write a whole model, of which some weights are replaced. Raises ValueError where they are of another model."""
    for name, tensor in trained.items():
        if name not in weights or weights[name].shape != tensor.shape:
            raise ValueError(f"the snapshots are of another model: {MODEL_FILE} has no {name} {tuple(tensor.shape)}")
    write_tensors(file, {**weights, **trained}, {CONFIG_KEY: json.dumps(config)})


def main(config: DictConfig) -> None:
    """What the command does."""
    given = resolved(config.length)
    lengths = given if isinstance(given, list) else [given]
    if not lengths or not all(isinstance(length, float | int) for length in lengths):
        raise ValueError(
            f"length is a number or a list of numbers, like length=0.075 or length=[0.05,0.1]; got {given}"
        )
    out = None if config.out is None else Path(config.out)
    written = average(Path(config.run), lengths, step=config.step, out=out)
    for model in written:
        print(model)
    print(
        f"next: python sample.py ckpt={shlex.quote(str(written[-1].file))} "
        'prompt="a red heart on a white background" n=4 seed=0'
    )


if __name__ == "__main__":
    command("ema", main)
