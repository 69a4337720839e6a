"""Several icons on a canvas: an embedded data set with captions, boxes, label maps and depth whose truth is known.

The module `scene` draws an image, and everything else that is known of it; here is which scenes there are.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm.auto import tqdm

from ldm.data.sources.base import SOURCE_OPTIONS, write_once
from ldm.data.sources.icons import choose_icons
from ldm.data.sources.scene import FARTHEST, LARGEST, RenderedScene, Scene, SceneObject, SceneRenderer
from ldm.options.rule import Whole, check, check_all

if TYPE_CHECKING:
    from ldm.batch import Fields

GAP = 1
"""Pixels between the squares of two icons, and between a square and the edge of the canvas."""

ATTEMPTS = 1000
"""The number of attempts to find a place or a combination, before an error."""


class IconScenes:
    """A data set of scenes: some icons of different names and colours, at places where they do not overlap, on a canvas.

    Pairs of an icon and a colour are held out: every object of a validation scene is such a pair, and no training scene has
    one. But every icon and every colour is in training pairs. The same options give the same bytes.

    Args:
        folder: The folder under which the shards lie, in a folder of their own for each choice of the other options.
        count: Number of icons, familiar ones first; they are the classes of boxes.
        colors: Name -> hex code, of icons; they are the classes of label maps, from 1 on.
        backgrounds: Name -> hex code, of the canvas.
        size: Size of the images in pixels: one number, or height and width.
        objects: Least and greatest number of icons in a scene.
        scenes: Number of training scenes.
        val_scenes: Number of validation scenes.
        samples_per_shard: The largest number of samples in a shard.
        val_fraction: The fraction of the pairs of icon and colour that are held out.

    Raises:
        ValueError: If an option has a wrong value, or there are too few icons and colours for such scenes.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        count: int,
        colors: Mapping[str, str],
        backgrounds: Mapping[str, str],
        size: int | Sequence[int],
        objects: Sequence[int] = (2, 4),
        scenes: int = 8000,
        val_scenes: int = 512,
        samples_per_shard: int = 1000,
        val_fraction: float = 0.125,
    ) -> None:
        given = {"count": count, "size": size, "samples_per_shard": samples_per_shard, "val_fraction": val_fraction}
        check_all({"data": {"source": {**given, "scenes": scenes, "val_scenes": val_scenes}}}, SOURCE_OPTIONS)
        for number in objects:
            check("data.source.objects", number, Whole(1))
        if len(objects) != 2 or objects[0] > objects[1]:
            raise ValueError(f"data.source.objects={list(objects)} cannot be; give the least and the greatest number")
        self.icons = choose_icons(count)
        self.renderer = SceneRenderer(self.icons, colors=colors, backgrounds=backgrounds, size=size)
        self.height, self.width = self.renderer.height, self.renderer.width
        self.objects = (objects[0], objects[1])
        self.samples_per_shard = samples_per_shard
        self.train_pairs, self.val_pairs = split_pairs(self.icons, list(colors), val_fraction)
        self.counts = {"train": scenes, "val": val_scenes}
        for pairs in (self.train_pairs, self.val_pairs):
            self._scene(random.Random(0), pairs)  # if there are none, this says so
        options = [
            self.icons,
            self.renderer.colors,
            self.renderer.backgrounds,
            [self.height, self.width],
            self.objects,
            self.counts,
            [LARGEST, FARTHEST, GAP],
        ]
        digest = hashlib.sha256(json.dumps([*options, samples_per_shard, val_fraction]).encode()).hexdigest()
        self.folder = Path(folder) / f"icon_scenes-{digest[:12]}"

    @cached_property
    def train(self) -> list[Scene]:
        """The scenes of the training split."""
        return self._draw("train", self.train_pairs)

    @cached_property
    def val(self) -> list[Scene]:
        """The scenes of the validation split."""
        return self._draw("val", self.val_pairs)

    def write(self) -> Path:
        """Write the shards, if they do not exist yet; several processes may do so at the same time.

        Returns:
            The folder of the shards.
        """
        splits = {split: self._samples(split) for split in ("train", "val")}
        return write_once(self.folder, splits, samples_per_shard=self.samples_per_shard)

    def render(self, scene: Scene) -> RenderedScene:
        """Draw a scene, and everything that is known of it; any scene of these icons and colours, not only those written."""
        return self.renderer.render(scene)

    def truth(self, scenes: Sequence[Scene]) -> Fields:
        """Return the fields of scenes, as batches have them: image, caption, boxes, segmentation and depth."""
        return self.renderer.truth(scenes)

    def shapes(self, side: int) -> list[NDArray[np.float32]]:
        """Return the shape of each icon, in the order of their numbers; see `SceneRenderer.shape`."""
        return [self.renderer.shape(icon, side) for icon in self.icons]

    def _draw(self, split: str, pairs: Sequence[tuple[str, str]]) -> list[Scene]:
        """Draw the scenes of a split, whose objects are of these pairs of icon and colour."""
        return [self._scene(random.Random(f"{split}/{number}"), pairs) for number in range(self.counts[split])]

    def _scene(self, rng: random.Random, pairs: Sequence[tuple[str, str]]) -> Scene:
        """Draw a scene. Raises ValueError if there is none."""
        for _ in range(ATTEMPTS):
            number = rng.randint(*self.objects)
            chosen = rng.sample(pairs, number) if number <= len(pairs) else []
            if not chosen or any(len(set(names)) < number for names in zip(*chosen)):
                continue
            squares = self._places(number, rng)
            if squares is not None:
                things = [SceneObject(*pair, *square) for pair, square in zip(chosen, squares, strict=True)]
                return Scene(
                    rng.choice(list(self.renderer.backgrounds)),
                    tuple(sorted(things, key=lambda thing: (thing.left, thing.top))),
                )
        raise ValueError(
            f"no scene of {self.objects[0]} to {self.objects[1]} icons of different names and colours was found among "
            f"{len(pairs)} pairs of both; give a larger data.source.size, count or val_fraction, more colours, or fewer objects"
        )

    def _places(self, number: int, rng: random.Random) -> list[tuple[int, int, int]] | None:
        """Draw left, top and side of squares that do not overlap, each at its own distance; None if they found no room."""
        sides = sorted((self.renderer.side(rng.uniform(1.0, FARTHEST)) for _ in range(number)), reverse=True)
        squares: list[tuple[int, int, int]] = []
        for side in sides:
            for _ in range(20):
                left = rng.randint(GAP, max(GAP, self.width - side - GAP))
                top = rng.randint(GAP, max(GAP, self.height - side - GAP))
                if all(_apart((left, top, side), other) for other in squares):
                    squares.append((left, top, side))
                    break
        if len(squares) < number:
            return None
        rng.shuffle(squares)
        return squares

    def _samples(self, split: str) -> Iterator[dict[str, Any]]:
        """Yield the samples of a split as `write_shards` takes them."""
        scenes = self.train if split == "train" else self.val
        for index, scene in enumerate(tqdm(scenes, desc=f"drawing {split} scenes", unit="image")):
            drawn = self.render(scene)
            objects = [{**thing._asdict(), "distance": self.renderer.distance(thing)} for thing in scene.objects]
            boxes = [{"label": int(label), "box": box} for label, *box in drawn.boxes.tolist()]
            record = {"caption": scene.caption, "boxes": boxes, "canvas": scene.canvas, "objects": objects}
            yield {
                "__key__": f"{split}-{index:06d}",
                "png": _png(drawn.image),
                "txt": scene.caption.encode(),
                "json": json.dumps(record).encode(),
                "seg.png": _png(drawn.segmentation),
                "depth.png": _png(drawn.depth),
            }


def split_pairs(
    icons: Sequence[str], colors: Sequence[str], val_fraction: float
) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Split the pairs of icon and colour at random, always in the same way.

    A pair is not held out if it is the last one in training with its icon or with its colour.

    Args:
        icons: Names of icons.
        colors: Names of colours.
        val_fraction: The fraction of the pairs that are held out; it is smaller if not so many can be.

    Returns:
        Pairs for training and for validation.
    """
    pairs = list(itertools.product(icons, colors))
    icons_left, colors_left = dict.fromkeys(icons, len(colors)), dict.fromkeys(colors, len(icons))
    wanted = round(len(pairs) * val_fraction)
    held_out: set[tuple[str, str]] = set()
    for icon, color in random.Random(0).sample(pairs, len(pairs)):
        if len(held_out) < wanted and icons_left[icon] > 1 and colors_left[color] > 1:
            held_out.add((icon, color))
            icons_left[icon] -= 1
            colors_left[color] -= 1
    return [pair for pair in pairs if pair not in held_out], [pair for pair in pairs if pair in held_out]


def _apart(first: tuple[int, int, int], second: tuple[int, int, int]) -> bool:
    """Return whether two squares, each given by left, top and side, have a gap between them."""
    (x, y, side), (left, top, other) = first, second
    beside = x + side + GAP <= left or left + other + GAP <= x
    return beside or y + side + GAP <= top or top + other + GAP <= y


def _png(levels: NDArray[np.uint8]) -> bytes:
    data = io.BytesIO()
    Image.fromarray(levels).save(data, format="png")
    return data.getvalue()
