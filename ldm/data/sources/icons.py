"""The embedded data set: named icons in a colour on a background, "a red heart on a white background".

The drawings and their names are real, nothing is downloaded, and the truth about every caption is known: a generated
image can be compared with the drawing of its caption. `python -m ldm.cli.icons` writes the shards without
training.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from fonticon_mdi7 import MDI7
from omegaconf import DictConfig
from PIL import Image, ImageDraw, ImageFont
from tqdm.auto import tqdm

from ldm.config import build
from ldm.data.sources.base import SOURCE_OPTIONS, write_once
from ldm.options.rule import check_all

if TYPE_CHECKING:
    from torch import Tensor

    from ldm.data.shards.names import StoredSample

FAMILIAR = (
    "heart cat dog star tree fish bird home car bus rocket airplane anchor apple bell bicycle bone book bug butterfly "
    "cactus cake camera candle carrot castle cloud coffee crown cube dolphin duck egg elephant eye feather fire flag "
    "flower ghost gift hammer horse key kite ladybug leaf lightbulb magnet mushroom owl panda paw penguin piano pizza "
    "rabbit skull snail snowflake snowman spider trophy umbrella unicorn violin wrench tooth sunglasses tractor"
).split()
"""Names of the icons that come first; all others follow in alphabetical order."""

SUPERSAMPLING = 4
"""Icons are drawn this many times larger and then scaled down, which makes their edges smooth."""

Values = tuple[tuple[int, str], ...]
"""Some values of a drawing, each with the number of its place in it."""


class Drawing(NamedTuple):
    """The contents of one image.

    Attributes:
        icon: The name of the icon.
        color: The name of its colour.
        background: The name of the colour of the background.
    """

    icon: str
    color: str
    background: str

    @property
    def caption(self) -> str:
        """The caption of the image in the shards: "a red heart on a white background"."""
        thing = f"{indefinite_article(self.color)} {self.color} {self.icon}"
        return f"{thing} on {indefinite_article(self.background)} {self.background} background"


class Icons:
    """A data set of all combinations of icon, colour and background.

    The combinations of the validation split are never trained on. But every icon, every colour, every background, and
    every pair of two of them, is in the training split, if there are at least two values of each.

    Args:
        folder: The folder under which the shards lie, in a folder of their own for each choice of the other options.
        count: Number of icons, familiar ones first.
        colors: Name -> hex code, of the icon.
        backgrounds: Name -> hex code.
        size: Size of the images in pixels: one number, or height and width; icons are as large as the shorter side.
        samples_per_shard: The largest number of samples in a shard.
        val_fraction: The fraction of the combinations that are held out.

    Raises:
        ValueError: If an option has a wrong value, or a colour is that of a background.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        count: int,
        colors: Mapping[str, str],
        backgrounds: Mapping[str, str],
        size: int | Sequence[int],
        samples_per_shard: int = 1000,
        val_fraction: float = 0.125,
    ) -> None:
        given = {"count": count, "size": size, "samples_per_shard": samples_per_shard, "val_fraction": val_fraction}
        check_all({"data": {"source": given}}, SOURCE_OPTIONS)
        self.icons = choose_icons(count)
        self.colors = dict(colors)
        self.backgrounds = dict(backgrounds)
        clash = {code.lower() for code in self.colors.values()} & {code.lower() for code in self.backgrounds.values()}
        if clash:
            raise ValueError(f"colours and backgrounds share {sorted(clash)}; an icon would be invisible: change one")
        self.height, self.width = (size, size) if isinstance(size, int) else size
        self.samples_per_shard = samples_per_shard
        self.train, self.val = split_drawings(
            [Drawing(*parts) for parts in itertools.product(self.icons, self.colors, self.backgrounds)], val_fraction
        )
        shape = self.height if self.height == self.width else [self.height, self.width]
        choice = [self.icons, self.colors, self.backgrounds, shape, samples_per_shard, val_fraction, "label"]
        self.folder = Path(folder) / f"icons-{hashlib.sha256(json.dumps(choice).encode()).hexdigest()[:12]}"

    @property
    def drawings(self) -> list[Drawing]:
        """The drawings of both splits."""
        return self.train + self.val

    def label(self, drawing: Drawing) -> int:
        """Return the number of the class of a drawing, which is that of its icon in `icons`."""
        return self.icons.index(drawing.icon)

    def write(self) -> Path:
        """Write the shards, if they do not exist yet; several processes may do so at the same time.

        Returns:
            The folder of the shards.
        """
        splits = {
            split: self._samples(split, drawings) for split, drawings in (("train", self.train), ("val", self.val))
        }
        return write_once(self.folder, splits, samples_per_shard=self.samples_per_shard)

    def images(self, drawings: Sequence[Drawing]) -> Tensor:
        """The drawings as they are in the shards, `(N, 3, height, width)` in [-1, 1]."""
        import torch

        from ldm.files.picture import to_tensor

        return torch.stack([to_tensor(picture) for picture in self._render(drawings)])

    def _samples(self, split: str, drawings: Sequence[Drawing]) -> Iterator[StoredSample]:
        """Yield the samples of a split as `write_shards` takes them."""
        pictures = tqdm(self._render(drawings), total=len(drawings), desc=f"drawing {split} icons", unit="image")
        for index, (drawing, picture) in enumerate(zip(drawings, pictures, strict=True)):
            data = io.BytesIO()
            picture.save(data, format="png")
            record = {"caption": drawing.caption, "label": self.label(drawing), **drawing._asdict()}
            yield {
                "__key__": f"{split}-{index:06d}",
                "png": data.getvalue(),
                "txt": drawing.caption.encode(),
                "json": json.dumps(record).encode(),
            }

    def _render(self, drawings: Sequence[Drawing]) -> Iterator[Image.Image]:
        """Yield the images of drawings in RGB; each icon is rendered once."""
        masks: dict[str, Image.Image] = {}
        side = min(self.height, self.width)
        corner = ((self.width - side) // 2, (self.height - side) // 2)
        for drawing in drawings:
            if drawing.icon not in masks:
                masks[drawing.icon] = icon_mask(drawing.icon, side)
            picture = Image.new("RGB", (self.width, self.height), self.backgrounds[drawing.background])
            picture.paste(self.colors[drawing.color], corner, masks[drawing.icon])
            yield picture


def choose_icons(count: int) -> list[str]:
    """Return the names of the first `count` icons whose name is one word.

    Raises:
        ValueError: If there are not so many, or `count` is below 1.
    """
    names = [name for name in dir(MDI7) if not name.startswith("_") and "_" not in name]
    ordered = FAMILIAR + [name for name in sorted(names) if name not in FAMILIAR]
    if not 1 <= count <= len(ordered):
        raise ValueError(f"count={count} icons asked for; there are 1 to {len(ordered)} with a name of one word")
    return ordered[:count]


class IconNames(tuple[str, ...]):
    """The names of the first icons, which are the names of the classes of `Icons`, in the order of their numbers."""

    def __new__(cls, count: int) -> IconNames:
        """Return the names.

        Args:
            count: Number of icons.

        Raises:
            ValueError: If there are not so many, or `count` is below 1.
        """
        return super().__new__(cls, choose_icons(count))


def icon_mask(icon: str, size: int) -> Image.Image:
    """Render the coverage of an icon, centred in a square.

    Args:
        icon: The name of the icon.
        size: Height and width of the square in pixels.

    Returns:
        A grayscale image; 255 where the icon covers a pixel, 0 where it does not.
    """
    large = size * SUPERSAMPLING
    font = ImageFont.truetype(MDI7.__font_file__, round(large * 0.9))
    mask = Image.new("L", (large, large), 0)
    glyph = getattr(MDI7, icon).rpartition(".")[2]
    ImageDraw.Draw(mask).text((large / 2, large / 2), glyph, fill=255, font=font, anchor="mm")
    return mask.resize((size, size), Image.Resampling.BOX)


def split_drawings(drawings: Sequence[Drawing], val_fraction: float) -> tuple[list[Drawing], list[Drawing]]:
    """Split drawings at random into a training and a validation split; the same drawings are always split in the same way.

    A drawing is not held out if it is the last one in training with one of its values or with a pair of its values.

    Args:
        drawings: All drawings.
        val_fraction: The fraction of the validation split; it is smaller if not so many drawings can be held out.

    Returns:
        Drawings for training and for validation.

    Raises:
        ValueError: If no drawing can be held out.
    """
    remaining: dict[Values, int] = {}
    for drawing in drawings:
        for part in _parts(drawing):
            remaining[part] = remaining.get(part, 0) + 1
    wanted = round(len(drawings) * val_fraction)
    held_out: set[Drawing] = set()
    for drawing in random.Random(0).sample(drawings, len(drawings)):
        if len(held_out) == wanted:
            break
        if all(remaining[part] > 1 for part in _parts(drawing)):
            held_out.add(drawing)
            for part in _parts(drawing):
                remaining[part] -= 1
    if not held_out:
        raise ValueError("nothing can be held out for validation; use at least two icons, colours and backgrounds")
    return [d for d in drawings if d not in held_out], [d for d in drawings if d in held_out]


def _parts(drawing: Drawing) -> list[Values]:
    """Return the values of a drawing, and all pairs of two of them."""
    values = list(enumerate(drawing))
    return [(value,) for value in values] + list(itertools.combinations(values, 2))


def indefinite_article(word: str) -> str:
    """Return the indefinite article of a word."""
    return "an" if word[0] in "aeiou" else "a"


def main(config: DictConfig) -> None:
    """Write the shards that `configs/icons.yaml` describes, and print how many images they hold."""
    source: Icons = build(config.data.source)
    print(f"{len(source.train)} training and {len(source.val)} validation images in {source.write()}")
