"""Sweeps (`-m`): where their runs write, and how many of them are still to be made."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode

from ldm.options.arguments import SEARCH_PATH, as_typed, job_name, kept_words, parse_override


@dataclass
class SweptRuns:
    """The runs of a sweep, as far as this process has made them.

    Attributes:
        folders: Their folders, in the order in which they were begun.
        study: The folder of a study that is kept on disk, in which runs of earlier commands lie, too; None: there is none.
        metric: The score that the sweep optimises; None: none.
        direction: "minimize" or "maximize" of a sweeper that has one.
    """

    folders: list[Path] = field(default_factory=list)
    study: Path | None = None
    metric: str | None = None
    direction: str | None = None

    def add(self, folder: str, metric: str | None) -> None:
        """Remember the run of the job that is running now; nothing outside of a sweep."""
        if not in_sweep():
            return
        hydra = HydraConfig.get()
        self.folders.append(Path(folder))
        self.metric = metric
        self.study = Path(hydra.sweep.dir) if hydra.sweeper.get("storage") else None
        direction = hydra.sweeper.get("direction")
        self.direction = None if direction is None else getattr(direction, "name", str(direction))


def in_sweep() -> bool:
    """Return whether this is a run of a sweep (`-m`)."""
    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN


def typed_options() -> list[str]:
    """Return the options of this job as they were typed; none where it was not begun by a command."""
    return list(map(as_typed, HydraConfig.get().overrides.task)) if HydraConfig.initialized() else []


def typed_words() -> list[str]:
    """Return the words of the command line as they were typed.

    In a process that was not begun by it, as some launchers of sweeps start them, return the options of this job as
    `typed_options` does, and further folders of configs that were named before them.
    """
    if words := kept_words():
        return words
    if not HydraConfig.initialized():
        return []
    return [word for word in HydraConfig.get().overrides.hydra if word.startswith(SEARCH_PATH)] + typed_options()


def chosen_experiment() -> str:
    """Return the experiment that was chosen; "" where none was, or no command has begun this job."""
    choices = HydraConfig.get().runtime.choices if HydraConfig.initialized() else {}
    return str(choices.get("experiment") or "")


def job_folder(folder: str) -> str:
    """Return where a job writes: the folder that was asked for, in a sweep one for each job."""
    return HydraConfig.get().runtime.output_dir if in_sweep() else folder


def run_folder(runs_dir: str, name: str) -> str:
    """Return where a run writes: a folder of its name, in a sweep one for each job."""
    return job_folder(f"{runs_dir}/{name}")


def folder_name(overrides: Sequence[str]) -> str:
    """Name the folder of a sweep's job by what is swept: by those of its overrides that have several values in the sweep.

    Where nothing is known to be swept, all overrides name it.
    """
    swept = _swept()
    return job_name([one for one in overrides if one.lstrip("+").partition("=")[0] in swept] or list(overrides))


def _swept() -> set[str]:
    """Return the options that have several values: on this command line, or in the config of the sweeper."""
    found = {str(name) for name in HydraConfig.get().sweeper.get("params") or {}}
    for override in map(parse_override, sys.argv[1:]):
        if override is not None and override.is_sweep_override():
            found.add(override.get_key_element().lstrip("+"))
    return found


def study_storage(folder: str) -> str:
    """Return the storage of an Optuna study in a folder, which is made if it is not there: Optuna makes none."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    return f"sqlite:///{folder}/study.db"


def remaining_trials(wanted: int, storage: str, study: str) -> int:
    """Return the number of the `wanted` trials of an Optuna study on disk that are unfinished; interrupted ones run again."""
    import optuna

    Path(storage.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
    if study not in {summary.study_name for summary in optuna.get_all_study_summaries(storage)}:
        return wanted
    trials = optuna.load_study(study_name=study, storage=storage).get_trials(deepcopy=False)
    return max(0, wanted - sum(trial.state == optuna.trial.TrialState.COMPLETE for trial in trials))
