"""Folders of runs, written as train.py would write them."""

import csv
import json
import math
from pathlib import Path

import yaml
from PIL import Image

from ldm.report.record import Invocation, Record

CONFIG = {
    "name": "hearts",
    "seed": 0,
    "paths": {"output_dir": "runs/hearts"},
    "data": {"source": {"count": 4}},
    "stage": {
        "autoencoder": {"trainer": {"max_steps": 100}, "optimizer": {"lr": 0.001}},
        "diffusion": {"trainer": {"max_steps": 100}, "optimizer": {"lr": 0.001}, "callbacks": {"ema": {"decay": 0.9}}},
    },
}
PANELS = {
    "autoencoder": {"PSNR in dB": ["val/psnr"]},
    "diffusion": {"loss": ["train/loss"], "loss by noise level": ["val/loss", "val/loss_t0.5"]},
}


def write_run(
    folder: Path,
    *,
    seed: int = 0,
    shift: float = 0.0,
    steps: int = 100,
    finished: bool = True,
    record: Record | None = None,
    config: dict | None = None,
    stages: tuple[str, ...] = ("autoencoder", "diffusion"),
    pictures: int = 3,
) -> Path:
    """Write a run of two stages, whose metrics differ by a little between seeds, and by `shift` from those of other runs."""
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump({**(config or CONFIG), "seed": seed}, allow_unicode=True))
    noise = math.sin(seed * 12.9898) / 50
    for stage in stages:
        metrics = (
            ["val/psnr"]
            if stage == "autoencoder"
            else ["train/loss", "val/loss", "val/loss_t0.5", "throughput/data_wait"]
        )
        rows = []
        for step in range(10, steps + 1, 10):
            values = {name: 2 + shift + noise * (1 + math.cos(step * seed)) + 5 / step for name in metrics}
            rows.append(
                {"step": step, "epoch": 0, **values, **({"throughput/data_wait": 0.2} if len(metrics) > 1 else {})}
            )
        (folder / stage / "logs").mkdir(parents=True)
        with (folder / stage / "logs" / "metrics.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, sorted(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        (folder / stage / "pictures").mkdir()
        for number in range(1, pictures + 1):
            Image.new("RGB", (64, 32), (20 * number % 256, 90, 120)).save(
                folder / stage / "pictures" / f"samples-{10 * number:08d}.png"
            )
        if finished:
            scores = {name: value for name, value in rows[-1].items() if name.startswith("val/")}
            results = {**scores, "steps": steps, "trained parameters": 1234, "seconds": 5.5}
            (folder / stage / "results.json").write_text(json.dumps(results))
    if record is not None:
        record.write(folder)
    return folder


def a_record(command: str = "python train.py experiment=hearts", **parts) -> Record:
    """Return the record of a run that one command has made."""
    hardware = {"processor": "a processor", "cores": "2", "precision": "bf16-mixed"}
    invocation = Invocation(
        command=command,
        started="2024-02-03T04:05:06+00:00",
        hardware=hardware,
        versions={"ldm": "0.1.0", "torch": "2.9"},
        **parts,
    )
    return Record(
        experiment="hearts", panels=PANELS, next_command="python sample.py ckpt=runs/hearts", invocations=[invocation]
    )
