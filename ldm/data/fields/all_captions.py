"""The field `captions`: all captions of a sample, to encode each of them once."""

from __future__ import annotations

import random
from collections.abc import Callable

from ldm.data.decode import Broken
from ldm.data.fields.base import FieldReader, Files
from ldm.data.transforms import CaptionChoice

MOST_CAPTIONS = 100
"""The largest number of different captions of one sample that are encoded."""


class AllCaptionsReader(FieldReader):
    """Reads all captions that can be drawn for a sample.

    Args:
        choice: Where captions come from.

    Raises:
        ValueError: Where their tags vary, so that they are without number.
    """

    name = "captions"
    endings = ("txt", "json")
    advice = "set data.caption.fields to fields with text, add .txt files"

    def __init__(self, choice: CaptionChoice) -> None:
        if choice.tags.active:
            raise ValueError(
                "captions whose tags are shuffled or left out are another text at each draw, which cannot be encoded once; "
                "set data.caption.shuffle_tags=false data.caption.drop_tags=0, or text=false"
            )
        self.choice = choice

    def read(self, files: Files, rng: Callable[[], random.Random] | None) -> list[str]:
        """Return the captions of one sample, each once. Raises Broken where it has none, or too many."""
        captions = self.choice.all_captions(files.get("txt"), files.get("json"))
        if len(captions) > MOST_CAPTIONS:
            raise Broken(f"more than {MOST_CAPTIONS} captions", "so many of a sample are not encoded")
        return captions

    def varies(self, files: Files) -> bool:
        """Return False: all are always read."""
        return False
