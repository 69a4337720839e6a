"""Reading a run from its folder: config, record, and of each stage curves, scores and pictures. Nothing of it is run."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ldm.callback.curves import Panels, read_metrics
from ldm.callback.end_values import NO_ENDS, Curve, EndValues, read_end_values
from ldm.files.run_names import CONFIG_FILE, RESULTS_FILE
from ldm.files.scores import read_scores
from ldm.files.similar import runs_near, similar
from ldm.report.record import Record, read_record

FACTS = ("steps", "seconds", "trained parameters")
"""Results of a stage that are no scores."""

_PICTURE = re.compile(r"(?P<name>.+)-(?P<step>\d{8,})\.png")


@dataclass(frozen=True)
class StageFiles:
    """Files of one stage in a run folder, read.

    Attributes:
        name: Name of the stage.
        curves: Name of a metric -> its values, in order of steps.
        results: The final scores, `FACTS` among them; empty until the stage is finished.
        pictures: Name -> (step, file), in order of steps.
        panels: Title of a panel of curves -> how the names of its curves end.
        steps: Optimiser steps of the whole training; None where the config does not say.
        ends: The scores at the end of training, where they are measured on another number of images.
    """

    name: str
    curves: Mapping[str, Curve]
    results: Mapping[str, float]
    pictures: Mapping[str, Sequence[tuple[int, Path]]]
    panels: Panels
    steps: int | None
    ends: EndValues = NO_ENDS

    @property
    def step(self) -> int:
        """The last step for which something was logged; 0 for none."""
        return max((points[-1][0] for points in self.curves.values()), default=0)

    @property
    def latest(self) -> dict[str, float]:
        """The last values that validation has measured, for a stage that is not finished."""
        return {name: points[-1][1] for name, points in self.curves.items() if name.startswith(("val/", "eval/"))}

    @property
    def scores(self) -> dict[str, float]:
        """The final scores alone."""
        return {name: value for name, value in self.results.items() if name not in FACTS}


@dataclass(frozen=True)
class RunFiles:
    """Files of a run folder, read.

    Attributes:
        folder: The run folder.
        config: The settings, as plain dicts, lists and values.
        record: The record of its commands; None for a run that was made before records were written.
        stages: The stages that were begun, in their order.
        waiting: Names of the stages that will follow.
    """

    folder: Path
    config: Mapping[str, Any]
    record: Record | None
    stages: Sequence[StageFiles]
    waiting: Sequence[str]

    @property
    def name(self) -> str:
        """The run's name."""
        return str(self.config.get("name") or self.folder.name)

    @property
    def is_finished(self) -> bool:
        """True once all stages are trained and measured."""
        return not self.waiting and all(stage.results for stage in self.stages)

    @property
    def next_command(self) -> str:
        """The command to type next: the same again until the run is finished; "" where that is not recorded."""
        if self.record is None:
            return ""
        if self.is_finished or not self.record.invocations:
            return self.record.next_command
        return self.record.invocations[-1].command

    @property
    def experiment(self) -> str:
        """Name of the experiment that was chosen; the run's name where that is not recorded."""
        return self.name if self.record is None else self.record.experiment


def read_run(path: str | Path) -> RunFiles:
    """Read a run, finished or not.

    Args:
        path: The run folder.

    Raises:
        ValueError: If there is no run, or it has logged nothing yet.
    """
    folder = Path(path)
    config = _read_config(folder)
    record = read_record(folder)
    names = [str(name) for name in config["stage"]]
    stages = []
    for name in names:
        curves = read_metrics(folder / name / "logs")
        if curves:
            panels = record.panels.get(name) if record is not None else None
            stages.append(_read_stage(folder / name, config["stage"][name], curves, panels))
    if not stages:
        raise ValueError(
            f"the run {folder} has logged nothing yet; wait until it has made some steps, or begin it with python train.py"
        )
    last = names.index(stages[-1].name)  # those before it were trained or given
    return RunFiles(folder, config, record, stages, names[last + 1 :])


def last_score(scores: Sequence[Mapping[str, float]], metric: str) -> float | None:
    """Return a score from the last stage that has it, under its own name or that of its evaluation or validation.

    Args:
        scores: The scores of each stage, in their order.
        metric: Its name.

    Returns:
        The score; None where no stage has it.
    """
    names = (metric, f"eval/{metric}", f"val/{metric}")
    return next((stage[name] for stage in reversed(scores) for name in names if name in stage), None)


def _read_stage(
    folder: Path, options: Any, curves: Mapping[str, Curve], panels: Mapping[str, Sequence[str]] | None
) -> StageFiles:
    file = folder / RESULTS_FILE
    try:
        results = read_scores(file.read_text(encoding="utf-8")) if file.is_file() else {}
    except ValueError as error:
        raise ValueError(
            f"{file} cannot be read as JSON ({error}); measure the run anew: validate_only=true"
        ) from error
    pictures: dict[str, list[tuple[int, Path]]] = {}
    for path in sorted((folder / "pictures").glob("*.png")):
        if found := _PICTURE.fullmatch(path.name):
            pictures.setdefault(found["name"], []).append((int(found["step"]), path))
    trainer = options.get("trainer") if isinstance(options, dict) else None
    steps = trainer.get("max_steps") if isinstance(trainer, dict) else None
    ordered = {name: sorted(files) for name, files in pictures.items()}
    panels = panels or {name: (name,) for name in curves}
    return StageFiles(folder.name, curves, results, ordered, panels, steps, read_end_values(folder, options))


def _read_config(folder: Path) -> dict[str, Any]:
    """Return the settings of the run that a folder holds.

    Raises:
        ValueError: If it holds none.
    """
    file = folder / CONFIG_FILE
    if not folder.exists():
        close = similar(folder, runs_near(folder))
        hint = f"; there is {', '.join(close)}" if close else "; a run's folder is what train.py has printed at its end"
        raise ValueError(f"there is no run {folder}{hint}")
    if not folder.is_dir():
        raise ValueError(f"{folder} is a file; give the folder of the run, which holds {CONFIG_FILE}")
    if not file.is_file():
        inside = sorted(str(path.parent) for path in folder.glob(f"*/{CONFIG_FILE}"))
        hint = "runs are the folders that train.py writes, like runs/txt2img"
        if (folder.parent / CONFIG_FILE).is_file():
            hint = f"give the run that it belongs to: {folder.parent}"
        elif inside:
            hint = f"it holds {len(inside)}; give {inside[0]}{' ...' if len(inside) > 1 else ''}"
        raise ValueError(f"{folder} is not a run: it has no {CONFIG_FILE}; {hint}")
    try:
        config = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError) as error:
        raise ValueError(f"{file} cannot be read as YAML: {error}") from error
    if not isinstance(config, dict) or not isinstance(config.get("stage"), dict):
        raise ValueError(
            f"{file} is not the config of a run of train.py: it has no stages; give the folder of such a run"
        )
    return config
