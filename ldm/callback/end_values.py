"""Telling the scores at the end of a stage, which are measured on another number of images, from those while it trained."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ldm.files.run_names import CONFIG_FILE, EARLIER_RESULTS, RESULTS_FILE
from ldm.files.scores import read_scores

MEASURED = "eval/"
"""The prefix of the names of metrics of generated images."""

Curve = list[tuple[int, float]]
"""A metric over a run: (step, value), in order of steps."""


@dataclass(frozen=True)
class EndValues:
    """Steps of a stage at which scores are those of its end.

    Attributes:
        steps: Optimiser steps after which the stage was, or will be, measured as at its end.
        label: A description of these scores for a legend; "" where they do not differ from the others.
    """

    steps: frozenset[int] = frozenset()
    label: str = ""

    def split(self, metric: str, points: Curve) -> tuple[Curve, Curve]:
        """Return the points of a curve that may be joined, and those at ends, which are of another number of images.

        Args:
            metric: Name of the metric.
            points: Its values.
        """
        if not self.label or not metric.startswith(MEASURED):
            return points, []
        return [one for one in points if one[0] not in self.steps], [one for one in points if one[0] in self.steps]


NO_ENDS = EndValues()
"""No scores differ."""


def read_end_values(folder: Path, options: Any) -> EndValues:
    """Return the steps at which a stage was measured on a different number of images than during its training.

    Args:
        folder: The folder of the stage.
        options: The options of the stage, as in the config of the run.
    """
    counts = list(_counts(options))
    label = next((text for first, last in counts if (text := _label(first, last))), "")
    if not label:
        return NO_ENDS
    trainer = options.get("trainer") if isinstance(options, Mapping) else None
    steps = {trainer.get("max_steps")} if isinstance(trainer, Mapping) else set()
    for file in [folder / RESULTS_FILE, *folder.glob(EARLIER_RESULTS)]:
        try:
            steps.add(read_scores(file.read_text(encoding="utf-8")).get("steps"))
        except (OSError, ValueError):
            continue
    return EndValues(frozenset(int(step) for step in steps if step is not None), label)


def read_config(run: Path) -> dict[str, Any]:
    """Return the options of all stages of a run by their names; none where its config cannot be read."""
    try:
        config = yaml.safe_load((run / CONFIG_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    stages = config.get("stage") if isinstance(config, dict) else None
    return stages if isinstance(stages, dict) else {}


def _counts(options: Any) -> Iterator[tuple[int, int | None]]:
    """Yield the numbers of images that callbacks of a stage measure during training and at its end; None: all images."""
    callbacks = options.get("callbacks") if isinstance(options, Mapping) else None
    for callback in callbacks.values() if isinstance(callbacks, Mapping) else ():
        if isinstance(callback, Mapping) and {"num_images", "final_images"} <= callback.keys():
            while_training, at_end = callback["num_images"], callback["final_images"]
            if isinstance(while_training, int) and isinstance(at_end, int | None):
                yield while_training, at_end


def _label(while_training: int, at_end: int | None) -> str:
    if at_end == while_training:
        return ""
    return "at the end, of all images" if at_end is None else f"at the end, of up to {at_end:,} images"
