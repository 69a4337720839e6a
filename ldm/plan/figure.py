"""The figures of a plan: each with its unit, and what it is based on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

COUNTED = "counted"
ESTIMATED = "estimated"
MEASURED = "measured"

UNITS: Mapping[str, Sequence[tuple[float, str]]] = {
    "parameters": ((1e9, "G"), (1e6, "M"), (1e3, "k")),
    "FLOP": ((1e12, "TFLOP"), (1e9, "GFLOP"), (1e6, "MFLOP")),
    "s": ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs")),
    "bytes": ((2**40, "TiB"), (2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")),
}
"""Unit of a figure -> the units in which it is shown, the largest first."""


class Figure(NamedTuple):
    """A figure of a plan.

    Attributes:
        name: Name of what has it.
        value: The figure.
        unit: Its unit.
        basis: "counted" (exact), "estimated" or "measured".
        note: The assumption behind an estimate, or what else must be known.
    """

    name: str
    value: float
    unit: str
    basis: str
    note: str = ""

    def __str__(self) -> str:
        note = f": {self.note}" if self.note else ""
        return f"  {self.name:<28}{shown(self.value, self.unit):>16}   {self.basis}{note}"


def shown(value: float, unit: str) -> str:
    """Return a figure as a text with its unit."""
    for factor, name in UNITS.get(unit, ()):
        if abs(value) >= factor:
            return f"{value / factor:,.2f} {name}"
    if unit == "dollars":
        return f"${value:,.0f}" if value >= 10 else f"${value:,.2f}"
    if unit in ("days", "h") and value < 0.01:
        return f"< 0.01 {unit}"
    if unit == "steps":
        return f"{value:,.0f}"
    return f"{value:,.4g} {unit}".rstrip() if abs(value) < 1000 else f"{value:,.0f} {unit}"
