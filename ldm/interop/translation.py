"""Translation of the tensors of one network between our layout and another, in which nothing is left unaccounted for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from torch import Size, Tensor, nn

from ldm.interop.change import Change, Same

SUFFIXES = ("weight", "bias")
"""The tensors of a module that both layouts call by these names."""


class Stem(NamedTuple):
    """A module of ours, or several, or a tensor, and what it is called in another layout.

    Attributes:
        ours: Names of our modules, like "down.0.stages.0.residual.norm1"; more than one where theirs is one for all. Or the name
            of a single tensor of ours that belongs to no such module.
        theirs: Name of their module, or tensor. Where it ends with "_", weight and bias are joined to it without a dot.
        change: The conversion between our numbers and theirs.
    """

    ours: Sequence[str]
    theirs: str
    change: Change = Same()


class Tie(NamedTuple):
    """A tensor of another layout, and those of ours that it holds.

    Attributes:
        ours: Names of our tensors.
        theirs: Name of theirs.
        change: The conversion between our numbers and theirs.
    """

    ours: Sequence[str]
    theirs: str
    change: Change


def stem(ours: str, theirs: str, change: Change | None = None) -> Stem:
    """Return the stem of one module or tensor."""
    return Stem([ours], theirs, change or Same())


def stems_inside(names: Mapping[str, str], ours: str, theirs: str) -> Iterator[Stem]:
    """Yield the stems of the modules inside of one, whose numbers are the same in both layouts.

    Args:
        names: Name of a module inside ours -> its name inside theirs.
        ours: Name of our module.
        theirs: Name of theirs.
    """
    for own, other in names.items():
        yield stem(f"{ours}.{own}", f"{theirs}.{other}")


@dataclass(frozen=True)
class Reading:
    """The tensors that a translation has found in another layout.

    Attributes:
        weights: Our names -> tensors.
        used: Their names of the tensors that were taken.
    """

    weights: dict[str, Tensor]
    used: set[str]


class Translation:
    """A table of all tensors of one network: what each is called here and there, and how its numbers change.

    Args:
        network: Our network, which on the meta device needs no memory; or its state dict.
        stems: The name of each of its modules in the other layout.
        layout: Name of the other layout, for messages.

    Raises:
        KeyError: If a tensor of the network has no name in the other layout.
    """

    def __init__(self, network: nn.Module | Mapping[str, Tensor], stems: Iterable[Stem], *, layout: str) -> None:
        self.layout = layout
        state = network.state_dict() if isinstance(network, nn.Module) else network
        self.shapes: dict[str, Size] = {name: tensor.shape for name, tensor in state.items()}
        self.ties: list[Tie] = []
        untied = set(self.shapes)
        for one in stems:
            for tie in self._ties_of(one):
                self.ties.append(tie)
                untied.difference_update(tie.ours)
        if untied:
            raise KeyError(f"{layout} has no names for {sorted(untied)}")

    def _ties_of(self, one: Stem) -> Iterable[Tie]:
        if one.ours[0] in self.shapes:
            yield Tie(one.ours, one.theirs, one.change)
        for suffix in SUFFIXES:
            names = [f"{module}.{suffix}" for module in one.ours]
            if names[0] in self.shapes:
                joined = f"{one.theirs}{suffix}" if one.theirs.endswith("_") else f"{one.theirs}.{suffix}"
                yield Tie(names, joined, one.change)

    @property
    def names(self) -> set[str]:
        """Their names of all tensors."""
        return {tie.theirs for tie in self.ties}

    def read(self, theirs: Mapping[str, Tensor], *, prefix: str = "") -> Reading:
        """Return our tensors.

        Args:
            theirs: Tensors by their names; there may be others.
            prefix: The beginning of the names in `theirs`, which those of the translation do not have.

        Raises:
            ValueError: If tensors are missing or have other shapes; the error names them.
        """
        missing = [prefix + tie.theirs for tie in self.ties if prefix + tie.theirs not in theirs]
        weights: dict[str, Tensor] = {}
        wrong: list[str] = []
        for tie in self.ties:
            name = prefix + tie.theirs
            if name in missing:
                continue
            wanted = [self.shapes[own] for own in tie.ours]
            try:
                parts = tie.change.to_ours(theirs[name])
            except ValueError as error:
                wrong.append(f"{name}: {error}")
                continue
            if [part.shape for part in parts] != wanted:
                shapes = " and ".join(str(tuple(shape)) for shape in dict.fromkeys(wanted))
                wrong.append(f"{name} has the shape {tuple(theirs[name].shape)}, which does not give {shapes}")
            weights |= dict(zip(tie.ours, parts, strict=True))
        if missing or wrong:
            faults = ([f"missing: {listed(missing)}"] if missing else []) + ([listed(wrong, "; ")] if wrong else [])
            raise ValueError(f"not the {self.layout} layout of this network: {'; '.join(faults)}")
        return Reading(weights, {prefix + tie.theirs for tie in self.ties})

    def write(self, ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return tensors by their names, of all of ours."""
        return {tie.theirs: tie.change.to_theirs([ours[name] for name in tie.ours]).contiguous() for tie in self.ties}


def listed(names: Sequence[str], separator: str = ", ", *, most: int = 5) -> str:
    """Return names as a text that does not grow with their number."""
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return separator.join(names[:most]) + rest
