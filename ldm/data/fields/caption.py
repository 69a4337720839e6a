"""The field `caption`."""

from __future__ import annotations

import random
from collections.abc import Callable

from ldm.data.decode import Broken
from ldm.data.fields.base import FieldReader, Files
from ldm.data.transforms import CaptionChoice


class CaptionReader(FieldReader):
    """Reads a caption from the .txt or from the .json.

    Args:
        choice: Chooses one of several captions.
    """

    name = "caption"
    endings = ("txt", "json")
    advice = "set data.caption.fields to fields with text, add .txt files"

    def __init__(self, choice: CaptionChoice) -> None:
        self.choice = choice

    def read(self, files: Files, rng: Callable[[], random.Random] | None) -> str:
        """Return the caption of one sample. Raises Broken where it has none."""
        return self.choice(files.get("txt"), files.get("json"), rng)

    def varies(self, files: Files) -> bool:
        """Return whether a sample has several captions, or its tags vary."""
        try:
            return self.choice.varies(files.get("txt"), files.get("json"))
        except Broken:
            return False
