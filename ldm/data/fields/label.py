"""The field `label`."""

from __future__ import annotations

import random
from collections.abc import Callable

from ldm.data.decode import Broken, decode_text
from ldm.data.fields.base import FieldReader, Files
from ldm.data.values import label_of


class LabelReader(FieldReader):
    """Reads the number of a class: the text of the .cls, else "label" in the .json; a whole number, at least 0."""

    name = "label"
    endings = ("cls", "json")
    advice = "add .cls files, or a number called label to the .json"

    def read(self, files: Files, rng: Callable[[], random.Random] | None) -> int:
        """Return the label of one sample. Raises Broken where it has none."""
        data = files.get("cls")
        text = decode_text(data) if data is not None else files.record.get("label")
        if text is None:
            raise Broken("no label")
        return label_of(text)

    def varies(self, files: Files) -> bool:
        """Return False: chance decides nothing."""
        return False
