"""The claim of a run to its folder, and the options that may change when a run goes on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import OmegaConf

from ldm.checkpoint import AUTOENCODER_FILE
from ldm.config import differences, resolved, value_of
from ldm.files.output_folder import OutputFolder
from ldm.files.run_names import CONFIG_FILE
from ldm.files.whole import set_aside, write_whole
from ldm.options.rule import leaves, matches
from ldm.task.base import Task
from ldm.training.stage import Stage

MOVABLE = ("autoencoder.ckpt", "init")
"""Options of files that may be given under another name where they were moved."""

FREE = (
    *("trainer*", "logger*", "paths*", "tags*", "optimized_metric", "search*", "name"),
    *("compile", "activation_checkpointing", "encode_precision", "stage.*.encode_precision"),
    *("data.workers", "data.cache", "data.max_broken", "data.train*", "data.source.folder"),
    *("perceptual.vgg16", "stage.*.loss.perceptual.vgg16"),  # the weights are compared by what is in them
    *("stage.*.validate_every_n_steps", "stage.*.callbacks*", "stage.*.trainer.*"),
)
"""Options, as patterns, that may differ between a run and its continuation: they do not change the steps already made.

Free, too, are those by which finished models are measured. Which samples training reads is compared by what is in them, when
a checkpoint is read, and not by where they lie.
"""

NOT_FREE = (
    *("stage.*.callbacks.ema*", "stage.*.callbacks.step_seed*", "trainer.overfit_batches"),
    *("stage.*.trainer.max_steps", "stage.*.trainer.accumulate_grad_batches", "stage.*.trainer.gradient_clip_val"),
)
"""Exceptions to `FREE`."""

LEARNED_BEFORE = "captions_for_vocabulary"
"""The option of a stage that takes effect before the first step of all stages."""


class Continuation(NamedTuple):
    """The work that is to be done again in a folder that holds a run.

    Attributes:
        measured: Finished stages that are to be measured in another way.
        lengthened: Stages that are to make more steps -> the steps that they were to make before.
    """

    measured: Sequence[str]
    lengthened: Mapping[str, int]


def run_output(run: Path) -> OutputFolder:
    """Return a run's folder; everything in it is the run's own where it holds the settings of one."""
    return OutputFolder(run, option="paths.output_dir", is_own=lambda name: (run / CONFIG_FILE).is_file())


def compare(run: Path, settings: Mapping[str, Any], stages: Sequence[Stage[Task]]) -> Continuation:
    """Compare settings with those of the run that a folder holds.

    Args:
        run: The run folder.
        settings: The settings now, as a plain config.
        stages: The stages of the run, in their order.

    Raises:
        ValueError: If the run folder holds a run of something else, with the reason.
    """
    file = run / CONFIG_FILE
    if not file.is_file() or _is_untouched(run, stages):
        return Continuation((), {})
    before = resolved(OmegaConf.load(file))
    refused: list[str] = []
    changed: list[str] = []
    lengthened: dict[str, int] = {}
    for line in differences(before, dict(settings)):
        name = line.partition(": ")[0]
        changed.append(name)
        reason = _reason(name, before, settings, stages, lengthened)
        if reason is not None:
            refused.append(line + (f" ({reason})" if reason else ""))
    if refused:
        raise ValueError(
            f"{run} holds a run with other settings, by which the steps already made would have been others:\n  "
            + "\n  ".join(refused[:20])
            + f"\nkeep it and choose another name, like name={settings['name']}-2{_taken_over(run, stages)}, or delete the "
            "folder to train anew"
        )
    measured = [stage.name for stage in stages if stage.is_finished and any(_measures(name, stage) for name in changed)]
    return Continuation([name for name in measured if name not in lengthened], lengthened)


def trained_by(settings: Mapping[str, Any], stages: Sequence[Stage[Task]]) -> dict[str, Any]:
    """Return the options, by their full names, that say what is trained; not those of where files lie."""
    found = leaves({name: settings[name] for name in ("seed", "model", "stage")})
    return {name: value for name, value in found if not _is_free(name, stages)}


def take(run: Path, settings: Mapping[str, Any], replaced: Sequence[Path]) -> None:
    """Write the settings into the run folder; what they replace keeps its place under another name.

    Args:
        run: The run folder.
        settings: The settings now.
        replaced: Files of results and models that are made anew.
    """
    run.mkdir(parents=True, exist_ok=True)
    for path in replaced:
        set_aside(path)
    file, text = run / CONFIG_FILE, OmegaConf.to_yaml(OmegaConf.create(dict(settings)))
    if file.is_file():
        if file.read_text(encoding="utf-8") == text:
            return
        set_aside(file)
    write_whole(file, text)


def _reason(
    name: str,
    before: Mapping[str, Any],
    settings: Mapping[str, Any],
    stages: Sequence[Stage[Task]],
    lengthened: dict[str, int],
) -> str | None:
    """Return why an option may not change, in a few words; None where it may. Stages that get more steps are noted."""
    if _is_ahead(name, stages):
        return None
    for place, stage in enumerate(stages):
        if name != f"stage.{stage.name}.trainer.max_steps" or stage.name not in before["stage"]:
            continue
        old = before["stage"][stage.name]["trainer"]["max_steps"]
        if stage.steps < old:
            return "a run cannot become shorter"
        if not stage.can_be_lengthened:
            reason = "under a learning rate that decays to the end; under a constant one a run can be lengthened"
            other = f", and a run of another name goes on from the model of this one by init={stage.run.folder}"
            return reason + (other if stage is stages[-1] and stage.is_finished else "")
        later = [other.name for other in stages[place + 1 :] if stage.model_file in other.builds_on]
        if later:
            return f"{later[0]} was trained on it"
        lengthened[stage.name] = old
        return None
    if name in MOVABLE and (old := value_of(before, name)) and value_of(settings, name):
        return None if not Path(old).exists() else "it is still there, so this is another"
    return None if _is_free(name, stages) else ""


def _taken_over(run: Path, stages: Sequence[Stage[Task]]) -> str:
    """Return advice on using this run's finished autoencoder in another run; "" where there is none."""
    finished = any(stage.is_finished and stage.model_file == AUTOENCODER_FILE for stage in stages)
    needed = any(AUTOENCODER_FILE in stage.builds_on for stage in stages)
    return f" (with autoencoder.ckpt={run} it takes over the finished autoencoder)" if finished and needed else ""


def _is_free(name: str, stages: Sequence[Stage[Task]]) -> bool:
    """Return whether an option may differ between a run and its continuation."""
    patterns = (*FREE, *(pattern for stage in stages for pattern in stage.measured_by))
    return matches(name, patterns) and not matches(name, NOT_FREE)


def _is_untouched(run: Path, stages: Sequence[Stage[Task]]) -> bool:
    """Return whether nothing is there yet that options could have changed: no step of any stage, and nothing learned before."""
    made = next(run.glob("**/*.safetensors"), None) is not None
    return not made and all(stage.begins and not stage.is_finished for stage in stages)


def _is_ahead(name: str, stages: Sequence[Stage[Task]]) -> bool:
    """Return whether an option is that of a stage which has made no steps yet, so that it changes none."""
    return any(
        stage.begins
        and not stage.is_finished
        and name.startswith(f"stage.{stage.name}.")
        and not name.endswith(LEARNED_BEFORE)
        for stage in stages
    )


def _measures(name: str, stage: Stage[Task]) -> bool:
    """Return whether an option says how a stage's finished model is measured; where files lie does not."""
    if name.endswith((".folder", ".cache")):
        return False
    return matches(name, (*stage.measured_by, f"stage.{stage.name}.callbacks.evaluation*"))
