"""Scenes of several icons on a canvas, and the renderer that draws them with everything that is known of them.

Depth shows in the size, as in perspective: an icon twice as far away is half as large. Its colour does not change with depth,
so that a region of a label map has the colour of its class, but for the smooth edges.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageColor

from ldm.data.sources.icons import icon_mask, indefinite_article

if TYPE_CHECKING:
    from ldm.batch import Fields

LARGEST = 0.5
"""Side of the nearest icons, as a fraction of the shorter side of the canvas."""

FARTHEST = 2.0
"""Distance of the farthest icons, where the nearest have the distance 1."""


class SceneObject(NamedTuple):
    """One icon of a scene.

    Attributes:
        icon: The name of the icon.
        color: The name of its colour.
        left: First column of its square, in pixels.
        top: First row of its square, in pixels.
        side: Height and width of its square, in pixels; nearer icons are larger.
    """

    icon: str
    color: str
    left: int
    top: int
    side: int

    @property
    def words(self) -> str:
        """The object in words: "a red heart"."""
        return f"{indefinite_article(self.color)} {self.color} {self.icon}"


class Scene(NamedTuple):
    """The contents of one image.

    Attributes:
        canvas: The name of the colour of the canvas.
        objects: Its icons, from left to right.
    """

    canvas: str
    objects: tuple[SceneObject, ...]

    @property
    def caption(self) -> str:
        """The caption: "a red heart, a blue cat and an orange owl on a white background"."""
        *first, last = (thing.words for thing in self.objects)
        things = f"{', '.join(first)} and {last}" if first else last
        return f"{things} on {indefinite_article(self.canvas)} {self.canvas} background"


class RenderedScene(NamedTuple):
    """Everything that is known of the image of a scene.

    Attributes:
        image: 8-bit levels, `(H, W, 3)` uint8.
        boxes: For each object the number of its icon, then x0, y0, x1, y1 in [0, 1], `(N, 5)` float64; the smallest box
            around the pixels that the icon covers by half or more.
        segmentation: For each pixel 0 for the canvas, or the number of a colour plus 1, `(H, W)` uint8.
        depth: For each pixel how near it is, `(H, W)` uint8: 0 for the canvas, 255 for icons at the distance 1, and for others
            255 divided by their distance.
    """

    image: NDArray[np.uint8]
    boxes: NDArray[np.float64]
    segmentation: NDArray[np.uint8]
    depth: NDArray[np.uint8]


class SceneRenderer:
    """Draws scenes of some icons in some colours.

    Args:
        icons: Names of the icons, in the order of their class numbers.
        colors: Name -> hex code, of icons, in the order of their class numbers.
        backgrounds: Name -> hex code, of the canvas.
        size: Size of the images in pixels: one number, or height and width.

    Raises:
        ValueError: If an icon and the canvas could have the same colour.
    """

    def __init__(
        self,
        icons: Sequence[str],
        *,
        colors: Mapping[str, str],
        backgrounds: Mapping[str, str],
        size: int | Sequence[int],
    ) -> None:
        self.icons = list(icons)
        self.colors = {name: _rgb(code) for name, code in colors.items()}
        self.backgrounds = {name: _rgb(code) for name, code in backgrounds.items()}
        clash = {*self.colors.values()} & {*self.backgrounds.values()}
        if clash:
            raise ValueError(f"colours and backgrounds share {sorted(clash)}; an icon would be invisible: change one")
        self.height, self.width = (size, size) if isinstance(size, int) else size
        self._masks: dict[tuple[str, int], Image.Image] = {}

    def render(self, scene: Scene) -> RenderedScene:
        """Draw a scene, and everything that is known of it; any scene of these icons and colours, not only those written."""
        shape = (self.height, self.width)
        picture = Image.new("RGB", (self.width, self.height), self.backgrounds[scene.canvas])
        segmentation, depth = np.zeros(shape, np.uint8), np.zeros(shape, np.uint8)
        boxes = np.zeros((len(scene.objects), 5))
        numbers = {name: number for number, name in enumerate(self.colors)}
        for row, thing in enumerate(scene.objects):
            mask = self._mask(thing.icon, thing.side)
            picture.paste(self.colors[thing.color], (thing.left, thing.top), mask)
            y, x = np.nonzero(np.asarray(mask) >= 128)
            y, x = y + thing.top, x + thing.left
            segmentation[y, x] = numbers[thing.color] + 1
            depth[y, x] = round(255 / self.distance(thing))
            corners = (
                x.min() / self.width,
                y.min() / self.height,
                (x.max() + 1) / self.width,
                (y.max() + 1) / self.height,
            )
            boxes[row] = (self.icons.index(thing.icon), *corners)
        return RenderedScene(np.asarray(picture), boxes, segmentation, depth)

    def distance(self, thing: SceneObject) -> float:
        """Return the distance of an icon, at least 1, which its size determines."""
        return max(1.0, self.side(1.0) / thing.side)

    def truth(self, scenes: Sequence[Scene]) -> Fields:
        """Return the fields of scenes, as batches have them: image, caption, boxes, segmentation and depth."""
        import torch
        from torch.nn.utils.rnn import pad_sequence

        from ldm.files.picture import from_levels

        drawn = [self.render(scene) for scene in scenes]
        return {
            "image": from_levels(torch.from_numpy(np.stack([one.image for one in drawn])).permute(0, 3, 1, 2)),
            "caption": [scene.caption for scene in scenes],
            "boxes": pad_sequence([torch.from_numpy(one.boxes).float() for one in drawn], True, -1.0),
            "segmentation": torch.from_numpy(np.stack([one.segmentation for one in drawn])).long(),
            "depth": from_levels(torch.from_numpy(np.stack([one.depth for one in drawn]))[:, None]),
        }

    def side(self, distance: float) -> int:
        """Return the side in pixels of icons at a distance."""
        return max(1, round(LARGEST * min(self.height, self.width) / distance))

    def shape(self, icon: str, side: int) -> NDArray[np.float32]:
        """Return the coverage of each pixel by an icon, in [0, 1], `(h, w)`, in the smallest box around its shape.

        Args:
            icon: The name of the icon.
            side: Height and width in pixels of the square in which it is drawn; the box is a part of it.
        """
        levels = np.asarray(self._mask(icon, side))
        y, x = np.nonzero(levels >= 128)
        return levels[y.min() : y.max() + 1, x.min() : x.max() + 1].astype(np.float32) / 255.0

    def _mask(self, icon: str, side: int) -> Image.Image:
        if (icon, side) not in self._masks:
            self._masks[icon, side] = icon_mask(icon, side)
        return self._masks[icon, side]


def _rgb(code: str) -> tuple[int, int, int]:
    red, green, blue, *_ = ImageColor.getrgb(code)
    return red, green, blue
