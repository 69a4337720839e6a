"""The values that a field can have, checked while they are in the memory of the CPU."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ldm.batch import Fields
from ldm.files.text import shortened


@dataclass(frozen=True)
class ValueRange:
    """The values of a field on which a model can be conditioned.

    A GPU computes on while the program goes on; reading a value of a tensor there makes the program wait for it. So values are
    checked before they are sent there, and a conditioner takes them as they are.

    Args:
        field: Name of the field.
        least: The least value.
        most: The greatest value.
        option: The option that sets the range, with its value, like "conditioner.num_classes=7".
        advice: Advice where a value lies outside in training.
        also: A value outside the range that is allowed, too; None: there is none.
        entry: The entry of the last axis that holds the value; None: all entries do.
    """

    field: str
    least: float
    most: float
    option: str
    advice: str
    also: int | None = None
    entry: int | None = None

    def check(self, fields: Fields, keys: Sequence[str] | None = None, *, advice: str | None = None) -> None:
        """Check the values of B images; where the field is missing there are none.

        Args:
            fields: The fields, on the CPU.
            keys: Names of the samples, `(B,)`, for the message; None: they have none.
            advice: Advice where a value lies outside; None: the range's own.

        Raises:
            ValueError: Where one is not allowed, or they are no numbers.
        """
        if self.field not in fields:
            return
        try:
            values = torch.atleast_1d(torch.as_tensor(fields[self.field]))
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"the field {self.field} is numbers, one or more for each image; got {shortened(str(fields[self.field]))}"
            ) from error
        if self.entry is not None:
            values = values[..., self.entry]
        right = (values >= self.least) & (values <= self.most)
        if self.also is not None:
            right |= values == self.also
        if right.all():
            return
        row, *_ = place = (~right).nonzero()[0].tolist()
        of = f" of the sample {keys[row]!r}" if keys is not None else ""
        also = "" if self.also is None else f", or {self.also}"
        raise ValueError(
            f"the field {self.field}{of} has the value {_shown(values[tuple(place)].item())}, but with {self.option} values are "
            f"{_shown(self.least)} to {_shown(self.most)}{also}; {advice or self.advice}"
        )


def _shown(value: float) -> str:
    """Return a number as a message shows it: whole ones with all their digits."""
    return str(int(value)) if isinstance(value, int) or value.is_integer() else f"{value:g}"
