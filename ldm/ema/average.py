"""Averages of weights over any length, chosen after training: `python -m ldm.ema`.

Training leaves snapshots of a few averages (the callback `power_ema`). From them the average of any other length is
computed, and a finished model with these weights is written.

References:
    Karras et al., 2023, section 3.2, arXiv:2312.02696.
"""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from omegaconf import DictConfig
from safetensors import SafetensorError, safe_open
from torch import Tensor
from tqdm.auto import tqdm

from ldm.checkpoint import MODEL_FILE, read
from ldm.config import resolved
from ldm.ema.power_function import Profile, gamma_of, match
from ldm.ema.snapshot import Snapshot, read_snapshots
from ldm.files.output_folder import OutputFolder
from ldm.files.tensors import write_tensors
from ldm.interop.foreign import CONFIG_KEY
from ldm.options.arguments import command_name
from ldm.options.rule import Optional, Real, Whole, check

FOLDER = "diffusion/ema"
"""The folder of the snapshots in a run."""

ORIGIN_KEY = "ldm_average"
"""The key in a file's metadata that says which average of which run it is."""

LENGTH, STEP = Real(), Optional(Whole(1), "the last")
"""Rules of the options; `gamma_of` knows, too, which lengths exist."""

POOR = 0.1
"""The residual above which an average is hardly the one that was asked for."""


class Averaged(NamedTuple):
    """A model that was written.

    Attributes:
        file: The file.
        length: Length of its average, the paper's sigma_rel.
        step: Number of optimiser steps at which the average ends.
        snapshots: Number of snapshots from which it was computed.
        residual: Distance between the profile of its average and the one asked for, as a fraction of the latter's norm.
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

    Where an error is raised, nothing has been written.

    Args:
        run: Folder of a finished run.
        lengths: Lengths of the averages, the paper's sigma_rel.
        step: Step of a snapshot, at which the averages end; None: the last.
        out: Folder for the files; None: the run's. A file of one of these names is replaced only where it was written here,
            as the average of the same run, length and step.

    Returns:
        The models that were written, one for each length.

    Raises:
        ValueError: Where a length or the step does not exist, a file would be lost, or an average is not finite.
        FileNotFoundError: Where the run has not ended or has no snapshots.
    """
    for length in lengths:
        check("length", length, LENGTH)
    check("step", step, STEP)
    gammas = [gamma_of(length) for length in lengths]
    if not run.is_dir():
        raise FileNotFoundError(f"there is no folder run={run}; give that of a finished run, like run=runs/txt2img")
    origins = {_name(length, step): _origin(run, out or run, length, step) for length in lengths}
    folder = OutputFolder(out or run, option="out", is_own=partial(_may_replace, out or run, origins))
    folder.check()
    snapshots = _snapshots(run, step)
    config, weights = _finished(run)
    end = snapshots[-1].step
    profiles = [Profile(gamma_of(snapshot.length), snapshot.step) for snapshot in snapshots]
    matches = [match(profiles, Profile(gamma, end)) for gamma in gammas]
    written = []
    with folder.lock():
        sums = combine(snapshots, [found.coefficients.tolist() for found in matches])
        for trained in sums:
            _check(trained, weights)
        for length, found, trained in zip(lengths, matches, sums, strict=True):
            name = _name(length, step)
            metadata = {CONFIG_KEY: json.dumps(config), ORIGIN_KEY: origins[name]}
            write_tensors(folder.path / name, {**weights, **trained}, metadata)
            written.append(Averaged(folder.path / name, length, end, len(snapshots), found.residual))
    return written


def _name(length: float, step: int | None) -> str:
    """Return the name of an average's file."""
    return f"ema-{length}.safetensors" if step is None else f"ema-{length}-step-{step:08d}.safetensors"


def _origin(run: Path, out: Path, length: float, step: int | None) -> str:
    """Return the text by which a file says which average it is; the run's place is relative to the file's folder."""
    place = os.path.relpath(run.resolve(), out.resolve())
    return json.dumps({"run": place, "length": length, "step": step})


def _may_replace(out: Path, origins: Mapping[str, str], name: str) -> bool:
    """Return True where writing loses no file: the name is not written, or its file is an earlier average of the same kind."""
    if name not in origins:
        return True
    try:
        with safe_open(out / name, framework="pt") as content:
            return (content.metadata() or {}).get(ORIGIN_KEY) == origins[name]
    except (SafetensorError, OSError):
        return False


def combine(snapshots: Sequence[Snapshot], coefficients: Sequence[Sequence[float]]) -> list[dict[str, Tensor]]:
    """Sum snapshots with coefficients; each snapshot is read once, tensor by tensor.

    Args:
        snapshots: The snapshots.
        coefficients: For each sum, a coefficient for each snapshot.

    Returns:
        For each sum, its float32 tensors by name.
    """
    sums: list[dict[str, Tensor]] = [{} for _ in coefficients]
    for number, snapshot in enumerate(tqdm(snapshots, desc="averaging", unit="snapshot")):
        for name, tensor in snapshot.tensors():
            for total, row in zip(sums, coefficients, strict=True):
                total.setdefault(name, torch.zeros_like(tensor)).add_(tensor, alpha=row[number])
    return sums


def _snapshots(run: Path, step: int | None) -> list[Snapshot]:
    """Return a run's snapshots up to a step."""
    found = read_snapshots(run / FOLDER)
    if not found:
        raise FileNotFoundError(
            f"no snapshots of averages in {run / FOLDER}; they are written while a run trains with "
            "'stage.diffusion.callbacks.power_ema.lengths=[0.05,0.1]'"
        )
    steps = sorted({snapshot.step for snapshot in found})
    if step is not None and step not in steps:
        raise ValueError(f"no snapshot of step {step}; the last are of {', '.join(map(str, steps[-10:]))}")
    return [snapshot for snapshot in found if step is None or snapshot.step <= step]


def _finished(run: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return config and weights of the run's model."""
    if not (run / MODEL_FILE).is_file():
        raise FileNotFoundError(f"{run} has no {MODEL_FILE}, so the run has not ended; finish it by the same command")
    return read(run / MODEL_FILE)


def _check(trained: dict[str, Tensor], weights: dict[str, Tensor]) -> None:
    """Raise ValueError where averaged weights are not finite, or of another model than that whose weights they replace."""
    for name, tensor in trained.items():
        if name not in weights or weights[name].shape != tensor.shape:
            raise ValueError(f"the snapshots are of another model: {MODEL_FILE} has no {name} {tuple(tensor.shape)}")
        if not tensor.isfinite().all():
            raise ValueError(
                f"the average of {name} is not finite, as a snapshot holds NaN or infinity: the training diverged, or a file is "
                "damaged; choose an earlier step=, before it did"
            )


def main(config: DictConfig) -> None:
    """Write the averages that a config asks for, and print their files.

    Args:
        config: The options of `configs/ema.yaml`.

    Raises:
        ValueError: Where an option has no value that it can have; else as `average` does.
        FileNotFoundError: As `average` does.
    """
    given = resolved(config.length)
    lengths = given if isinstance(given, list) else [given]
    if not lengths or not all(map(Real().allows, lengths)):
        raise ValueError(
            f"length is a number or a list of numbers, like length=0.075 or length=[0.05,0.1]; got {given}"
        )
    for name in ("run", "out"):
        if config[name] == "":
            raise ValueError(f"the option {name} has no value; type {name}=FOLDER")
    out = None if config.out is None else Path(config.out)
    written = average(Path(config.run), lengths, step=config.step, out=out)
    for model in written:
        print(model)
    print(
        f"next: {command_name('sample')} ckpt={shlex.quote(str(written[-1].file))} "
        'prompt="a red heart on a white background" n=4 seed=0'
    )
