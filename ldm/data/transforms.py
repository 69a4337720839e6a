"""From the bytes of a sample to what a batch holds: an image or a latent, and a caption."""

from __future__ import annotations

import math
import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from PIL import Image, ImageOps
from torch import Tensor

from ldm.batch import Condition, Size, Skip, as_size
from ldm.data.decode import Broken, clean_text, decode_text, decode_with_size
from ldm.data.latents import unpack_latent
from ldm.data.shards.names import read_record

Crop = Literal["center", "random"]


class Item(NamedTuple):
    """One sample on its way into a batch; see Batch.

    levels  of its image, `(H, W, 3)` uint8
    """

    key: str = ""
    caption: str = ""
    levels: np.ndarray | None = None
    moments: Tensor | None = None
    geometry: Sequence[int] = ()
    text: Condition | None = None
    skipped: Sequence[Skip] = ()


class Transform(ABC):
    """What a sample's image or latent becomes."""

    @property
    @abstractmethod
    def deterministic(self) -> bool:
        """Whether a sample always gives the same."""

    @abstractmethod
    def __call__(self, data: bytes, chance: random.Random, size: Size | None = None) -> Item:
        """Bytes of a file -> an item with neither key nor caption. Raises Broken.

        chance  of which nothing is drawn where the transform is deterministic
        size    of the result; None: the transform's own
        """


class ImageTransform(Transform):
    """Decode, resize so that the picture just covers the wanted size, crop, flip.

    size  of the result, unless another is asked for
    crop  "center" or "random"
    flip  mirror half of the images, left to right
    """

    def __init__(self, size: int | Sequence[int], *, crop: Crop = "center", flip: bool = False) -> None:
        if crop not in ("center", "random"):
            raise ValueError(f"crop is 'center' or 'random'; got {crop!r}")
        self.size = as_size(size)
        self.crop = crop
        self.flip = flip

    @property
    def deterministic(self) -> bool:
        return self.crop == "center" and not self.flip

    def __repr__(self) -> str:
        return f"ImageTransform({self.size}, crop={self.crop!r}, flip={self.flip})"

    def __call__(self, data: bytes, chance: random.Random, size: Size | None = None) -> Item:
        size = size or self.size
        picture, original = decode_with_size(data, side=max(size))
        frame = Frame.centre(picture, size)
        if self.crop == "random":
            frame = frame.anywhere(chance)
        left, top = frame.box[:2]
        picture = frame.cut(picture)
        if self.flip and chance.random() < 0.5:
            picture = ImageOps.mirror(picture)
        return Item(levels=np.asarray(picture), geometry=(original.height, original.width, top, left, *size))


class LatentTransform(Transform):
    """Cached moments, and the frozen text encoder's tokens where they were cached, too.

    flip  take those of the mirrored image half of the time
    """

    def __init__(self, *, flip: bool = False) -> None:
        self.flip = flip

    @property
    def deterministic(self) -> bool:
        return not self.flip

    def __repr__(self) -> str:
        return f"LatentTransform(flip={self.flip})"

    def __call__(self, data: bytes, chance: random.Random, size: Size | None = None) -> Item:
        tensors = unpack_latent(data)
        name = "flipped" if self.flip and chance.random() < 0.5 else "moments"
        if name not in tensors:
            raise Broken(f"latent without {name}")
        text = [tensors[part][None] for part in ("tokens", "mask") if part in tensors]
        return Item(
            moments=tensors[name],
            geometry=tensors["geometry"].tolist(),
            text=Condition(*text) if text else None,
        )


class CaptionChoice:
    """Takes the caption from the sample's .txt or from a field of its .json, at random among several.

    fields  name -> weight, "txt" for the .txt, else a field of the .json, which may hold a list of captions; those that a
            sample does not have are left out. None: the .txt, or without one the json's "caption"
    """

    def __init__(self, fields: Mapping[str, float] | None = None) -> None:
        if fields is not None and not (fields and all(weight > 0 for weight in fields.values())):
            raise ValueError(f"caption.fields gives each field a weight above 0, like {{txt: 1, alt: 3}}; got {fields}")
        self.fields = dict(fields) if fields is not None else None

    def __call__(
        self, text: bytes | None, record: bytes | None, chance: Callable[[], random.Random] | None = None
    ) -> str:
        """Contents of .txt and .json -> caption. Raises Broken where there is none.

        chance  makes what chooses, and is called where there is a choice; None: always the first of the weightiest
        """
        written = "" if text is None else decode_text(text)
        weights = self.fields or {"txt" if written else "caption": 1.0}
        content = read_record(record) if record and set(weights) != {"txt"} else {}
        content["txt"] = written
        found = {name: texts for name in weights if (texts := _texts(content.get(name)))}
        if not found:
            raise Broken("no caption")
        if sum(map(len, found.values())) == 1 or chance is None:
            return found[max(found, key=lambda name: weights[name])][0]
        chooser = chance()
        (name,) = chooser.choices(list(found), [weights[name] for name in found])
        return chooser.choice(found[name])


def _texts(value: Any) -> list[str]:
    """A text, or a list of them, without those that are empty."""
    values = value if isinstance(value, list) else [value]
    return [text for text in (clean_text(value) for value in values if isinstance(value, str)) if text]


class Frame(NamedTuple):
    """What of a picture is shown: it is resized until it just covers the wanted size, then a box is cut out of it.

    picture  its size, (width, height)
    cover    its size when resized, (width, height)
    box      left, top, right, bottom in it
    """

    picture: tuple[int, int]
    cover: tuple[int, int]
    box: tuple[int, int, int, int]

    @staticmethod
    def centre(picture: Image.Image, size: Size) -> Frame:
        """Of the middle of a picture."""
        scale = max(size.height / picture.height, size.width / picture.width)
        width, height = (max(size.width, round(picture.width * scale)), max(size.height, round(picture.height * scale)))
        left, top = (width - size.width) // 2, (height - size.height) // 2
        return Frame(picture.size, (width, height), (left, top, left + size.width, top + size.height))

    def anywhere(self, chance: random.Random) -> Frame:
        """As large, at a random place."""
        width, height = self.box[2] - self.box[0], self.box[3] - self.box[1]
        left, top = chance.randint(0, self.cover[0] - width), chance.randint(0, self.cover[1] - height)
        return self._replace(box=(left, top, left + width, top + height))

    def part(self) -> tuple[float, float, float, float]:
        """The box in the original picture."""
        x, y = self.picture[0] / self.cover[0], self.picture[1] / self.cover[1]
        left, top, right, bottom = self.box
        return left * x, top * y, min(self.picture[0], right * x), min(self.picture[1], bottom * y)

    def touched(self) -> tuple[slice, slice]:
        """Rows and columns of the original picture of which something is shown."""
        left, top, right, bottom = self.part()
        return slice(math.floor(top), math.ceil(bottom)), slice(math.floor(left), math.ceil(right))

    def cut(self, picture: Image.Image) -> Image.Image:
        """What is shown of a picture; what lies outside is never computed."""
        if self.cover == picture.size:
            return picture if self.box == (0, 0, *picture.size) else picture.crop(self.box)
        size = (self.box[2] - self.box[0], self.box[3] - self.box[1])
        return picture.resize(size, Image.Resampling.LANCZOS, box=self.part(), reducing_gap=3.0)
