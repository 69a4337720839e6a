"""A data source: coloured squares."""

from __future__ import annotations

import io
import itertools
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from PIL import Image

PLACES = tuple(itertools.product(("top", "middle", "bottom"), ("left", "centre", "right")))


class Squares:
    """Squares on white, "a red square at the top left": each colour at nine places. Every fourth is for validation.

    Args:
        folder: The folder of the shards; it must not be used for anything else.
        size: Height and width of the images in pixels.
        colors: Name -> hex code.
    """

    def __init__(self, folder: str | Path, *, size: int, colors: Mapping[str, str]) -> None:
        self.folder = Path(folder)
        self.size = size
        self.colors = dict(colors)

    def write(self) -> Path:
        """Write the shards, if they do not exist yet, and return their folder, which appears whole or not at all."""
        from ldm.data.shards.names import write_shards  # imported here: it loads torch, which --help does not need

        if not self.folder.is_dir():
            self.folder.parent.mkdir(parents=True, exist_ok=True)
            draft = Path(tempfile.mkdtemp(dir=self.folder.parent))
            for split in ("train", "val"):
                write_shards(self._samples(split), draft, split, samples_per_shard=1000)
            draft.rename(self.folder)
        return self.folder

    def _samples(self, split: str) -> Iterator[dict]:
        """Yield the samples of a split as `write_shards` takes them."""
        for index, (name, (row, column)) in enumerate(itertools.product(self.colors, PLACES)):
            if (index % 4 == 0) == (split == "val"):
                third, place = self.size // 3, PLACES.index((row, column))
                picture = Image.new("RGB", (self.size, self.size), "#ffffff")
                picture.paste(
                    Image.new("RGB", (third, third), self.colors[name]), (place % 3 * third, place // 3 * third)
                )
                data = io.BytesIO()
                picture.save(data, format="png")
                caption = f"a {name} square at the {row} {column}"
                yield {"__key__": f"{index:03d}", "png": data.getvalue(), "txt": caption.encode()}
