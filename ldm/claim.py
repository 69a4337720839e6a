"""Whose run a folder holds, and what may change when a run goes on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import OmegaConf

from ldm.config import differences, resolved
from ldm.folder import OutputFolder

CONFIG_FILE = "config.yaml"
"""In a run folder: the settings of the run that it holds."""

MEASURING = {
    "diffusion": ("metric*", "sampler*", "guidance*", "grid*", "model.sampler*", "model.guidance*", "data.val*"),
    "autoencoder": ("data.val*",),
    "classifier": ("data.val*",),
}
"""Stage -> options, as patterns, by which its finished model is measured; `task.STAGE.callbacks` are others."""

FREE = (
    *("trainer*", "logger*", "paths*", "run_dir", "optimized_metric", "search*", "name"),
    *("data.workers", "data.cache", "data.max_broken", "data.train*", "data.source.folder"),
    *("task.*.checkpoints*", "task.*.validate_every_n_steps", "task.*.callbacks*"),
    *(pattern for patterns in MEASURING.values() for pattern in patterns),
)
"""Options, as patterns, that may differ between a run and its continuation: they do not change the steps already made.

Which samples training reads is compared by what is in them, when a checkpoint is read, and not by where they lie.
"""


class Continuation(NamedTuple):
    """What is to be done again in a folder that holds a run.

    Attributes:
        measured: Finished stages that are to be measured in another way.
        lengthened: Stages that are to make more steps -> the steps that they were to make before.
    """

    measured: Sequence[str]
    lengthened: Mapping[str, int]


def run_output(run: Path) -> OutputFolder:
    """Return a run's folder; everything in it is the run's own where it holds the settings of one."""
    return OutputFolder(run, option="run_dir", is_own=lambda name: (run / CONFIG_FILE).is_file())


def compare(run: Path, settings: Mapping[str, Any], finished: Sequence[str]) -> Continuation:
    """Compare settings with those of the run that a folder holds.

    Args:
        run: The run folder.
        settings: The settings now, as a plain config.
        finished: The stages that are finished.

    Raises:
        ValueError: Where the run folder holds a run of something else, with the reason.
    """
    file = run / CONFIG_FILE
    if not file.is_file():
        return Continuation((), {})
    before = resolved(OmegaConf.load(file))
    refused: list[str] = []
    changed: list[str] = []
    lengthened: dict[str, int] = {}
    for line in differences(before, dict(settings)):
        name = line.partition(": ")[0]
        changed.append(name)
        reason = _reason(name, before, settings, lengthened)
        if reason is not None:
            refused.append(line + (f" ({reason})" if reason else ""))
    if refused:
        raise ValueError(
            f"{run} holds a run with other settings, by which the steps already made would have been others:\n  "
            + "\n  ".join(refused[:20])
            + f"\nkeep it and choose another name, like name={settings['name']}-2, or delete the folder to train anew"
        )
    measured = [stage for stage in finished if any(map(lambda name, stage=stage: _measures(name, stage), changed))]
    return Continuation([stage for stage in measured if stage not in lengthened], lengthened)


def take(run: Path, settings: Mapping[str, Any], again: Continuation, files: Mapping[str, str], results: str) -> None:
    """Write the settings into the run folder; what they replace keeps its place under another name.

    Args:
        run: The run folder.
        settings: The settings now.
        again: What is done again.
        files: Stage -> name of the file of its finished model.
        results: The name of the file of a stage's results.
    """
    run.mkdir(parents=True, exist_ok=True)
    for stage in (*again.measured, *again.lengthened):
        _set_aside(run / stage / results)
    for stage in again.lengthened:
        _set_aside(run / files[stage])
    file, text = run / CONFIG_FILE, OmegaConf.to_yaml(OmegaConf.create(dict(settings)))
    if file.is_file():
        if file.read_text(encoding="utf-8") == text:
            return
        _set_aside(file)
    draft = file.with_name(f".{CONFIG_FILE}")
    draft.write_text(text, encoding="utf-8")
    draft.replace(file)


def _reason(
    name: str, before: Mapping[str, Any], settings: Mapping[str, Any], lengthened: dict[str, int]
) -> str | None:
    """Why an option may not change, in a few words; None where it may. Stages that get more steps are noted."""
    parts = name.split(".")
    if parts[0] == "task" and parts[-1] == "steps" and len(parts) == 3 and parts[1] in before["task"]:
        stage = parts[1]
        old, new = before["task"][stage], settings["task"][stage]
        if new["steps"] < old["steps"]:
            return "a run cannot become shorter"
        if new["learning_rate"].get("decay", "constant") != "constant":
            return "under a learning rate that decays to the end; under a constant one a run can be lengthened"
        later = list(settings["task"])[list(settings["task"]).index(stage) + 1 :]
        if stage == "autoencoder" and later:
            return f"{later[0]} was trained on it"
        lengthened[stage] = old["steps"]
        return None
    if name == "autoencoder.ckpt" and before["autoencoder"]["ckpt"] and settings["autoencoder"]["ckpt"]:
        return None if not Path(before["autoencoder"]["ckpt"]).exists() else "it is still there, so this is another"
    return None if any(fnmatchcase(name, pattern) for pattern in FREE) else ""


def _measures(name: str, stage: str) -> bool:
    """Whether an option says how a stage's finished model is measured; where files lie does not."""
    if name.endswith((".folder", ".cache")):
        return False
    patterns: Iterator[str] = iter((*MEASURING.get(stage, ()), f"task.{stage}.callbacks.evaluation*"))
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _set_aside(file: Path) -> None:
    """Rename a file, where it is there, to `NAME-1`, or the next number that is free."""
    if not file.is_file():
        return
    number = 1
    while (kept := file.with_name(f"{file.stem}-{number}{file.suffix}")).exists():
        number += 1
    file.rename(kept)
