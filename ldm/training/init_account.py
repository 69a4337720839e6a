"""The account of a warm start: what a model took of an earlier one, and what not."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ldm.files.whole import write_whole

INIT_FILE = "init.json"
"""The file in a stage's folder that says what the stage took of an earlier model."""

LISTED = 4
"""The largest number of tensors of each part that an error names."""


@dataclass
class WarmStart:
    """Lists what was taken of an earlier model, and what was not, by the names of tensors.

    Attributes:
        file: The file of the earlier model.
        taken: Tensors with the values of the earlier model -> their shape.
        extended: Tensors with more input channels than before, the added ones zero -> their shape before and now.
        other: Tensors that fit nothing, as shape or meaning are others -> why.
        new: Tensors that the earlier model does not have -> their shape.
        left_out: Tensors of the earlier model that have no place -> their shape.
    """

    file: Path
    taken: dict[str, list[int]] = field(default_factory=dict)
    extended: dict[str, list[list[int]]] = field(default_factory=dict)
    other: dict[str, str] = field(default_factory=dict)
    new: dict[str, list[int]] = field(default_factory=dict)
    left_out: dict[str, list[int]] = field(default_factory=dict)

    def misfits(self) -> dict[str, str]:
        """Return all tensors in which the two models differ, each with how."""
        new = {name: f"is new, {shape}" for name, shape in self.new.items()}
        left_out = {name: f"of the earlier model has no place, {shape}" for name, shape in self.left_out.items()}
        return {**self.other, **new, **left_out}

    def summary(self, stage: str) -> str:
        """Return a few lines for the user, grouped by parts of the model.

        Args:
            stage: Name of the stage.
        """
        lines = [f"the stage {stage} begins with the averaged weights of {self.file}: {_counted(self.taken)}"]
        lines += [f"  with zeros for new input channels: {n}, {a} -> {b}" for n, (a, b) in self.extended.items()]
        for what, names in (("anew", [*self.other, *self.new]), ("left out", self.left_out)):
            if names:
                lines.append(f"  {what}: {_counted(names)}")
        return "\n".join(lines)

    def write(self, folder: Path) -> None:
        """Write the account into a stage's folder."""
        write_whole(folder / INIT_FILE, json.dumps({**self.__dict__, "file": str(self.file)}, indent=1))

    def check(self, may_be_new: Sequence[str]) -> None:
        """Raise ValueError where something does not fit that must, or nothing fits.

        Args:
            may_be_new: Parts, by the beginnings of their names, that need not fit.
        """
        misfits = self.misfits()
        known = [*misfits, *self.taken, *self.extended]
        for part in may_be_new:
            if not any(_is_in(name, part) for name in known):
                raise ValueError(
                    f"init_new names {part}, which is no part of this model; its parts are {', '.join(_parts(known))}"
                )
        refused = {name: how for name, how in misfits.items() if not any(_is_in(name, part) for part in may_be_new)}
        if refused:
            shown = []
            for part in _parts([*refused]):
                lines = [f"{name} {how}" for name, how in refused.items() if _part(name) == part]
                more = [f"and {len(lines) - LISTED} more of {part}"] if len(lines) > LISTED else []
                shown += [*lines[:LISTED], *more]
            raise ValueError(
                f"the model in {self.file} does not fit the one that is to be trained:\n  "
                + "\n  ".join(shown)
                + "\ngive the options that it was trained with, which are in its config.yaml; or, to let these parts begin "
                f"anew where they do not fit, init_new=[{','.join(_parts([*may_be_new, *refused]))}]"
            )
        if not self.taken:
            raise ValueError(
                f"nothing of the model in {self.file} fits the one that is to be trained, so it is no beginning; leave out init"
            )


def _is_in(name: str, part: str) -> bool:
    return name == part or name.startswith(f"{part}.")


def _part(name: str) -> str:
    """Return the part of a model that a tensor belongs to: two steps down for what holds everything else, one otherwise."""
    first, _, rest = name.partition(".")
    return f"{first}.{rest.partition('.')[0]}" if first == "denoiser" and rest else first


def _parts(names: Sequence[str]) -> list[str]:
    return sorted(set(map(_part, names)))


def _counted(names: Mapping[str, Any] | Sequence[str]) -> str:
    """Return parts and the numbers of their tensors, as text."""
    return ", ".join(f"{part} ({count} tensors)" for part, count in Counter(map(_part, names)).items())
