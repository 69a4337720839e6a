"""Make fields of the bytes of an image or a latent; choose one of several captions."""

from __future__ import annotations

import math
import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from PIL import Image, ImageOps
from torch import Tensor

from ldm.batch import Size, as_size
from ldm.data.cached_text import CachedText
from ldm.data.decode import Broken, Header, decode_text, decode_with_size, read_header
from ldm.data.fields.cut import Cut
from ldm.data.fields.placement import Placement
from ldm.data.fields.tags import TagVariation
from ldm.data.latents import FEATURES, FLIPPED_FEATURES, unpack_latent
from ldm.data.shards.names import read_record
from ldm.files.text import clean_text

Crop = Literal["center", "random"]

LONGEST_SIDE = 2**16
"""The largest side, in pixels, that cached latents may declare for their images."""


class Transform(ABC):
    """Makes an image or a latent of the bytes of a file."""

    @property
    @abstractmethod
    def deterministic(self) -> bool:
        """True where a sample always gives the same."""

    @abstractmethod
    def __call__(self, data: bytes, rng: random.Random, size: Size | None = None) -> Cut:
        """Return the image or latent in a file.

        Args:
            data: Bytes of the file.
            rng: Draws crop and flip; nothing is drawn where the transform is deterministic.
            size: Size of the result; None: the transform's own.

        Raises:
            Broken: Where the file cannot be used.
        """

    @abstractmethod
    def placement(self, data: bytes, size: Size | None = None) -> Placement:
        """Return the placement of an image that is cut at the centre, without decoding it.

        Args:
            data: Bytes of the file.
            size: Size of the result; None: the transform's own.

        Raises:
            Broken: Where the file cannot be used.
        """

    @abstractmethod
    def still(self) -> Transform:
        """Return the transform of the same kind that always cuts at the centre and never flips."""


class ImageTransform(Transform):
    """Decode, resize so that the picture just covers the wanted size, crop, flip.

    Args:
        size: Size of the result, unless another is asked for: one number, or height and width.
        crop: "center" or "random".
        flip: Mirror half of the images, left to right.
    """

    def __init__(self, size: int | Sequence[int], *, crop: Crop = "center", flip: bool = False) -> None:
        if crop not in ("center", "random"):
            raise ValueError(f"crop is 'center' or 'random'; got {crop!r}")
        self.size = as_size(size)
        self.crop = crop
        self.flip = flip

    @property
    def deterministic(self) -> bool:
        """True where a sample always gives the same."""
        return self.crop == "center" and not self.flip

    def __repr__(self) -> str:
        return f"ImageTransform({self.size}, crop={self.crop!r}, flip={self.flip})"

    def __call__(self, data: bytes, rng: random.Random, size: Size | None = None) -> Cut:
        """Return an image and how it was cut; see `Transform`. Raises Broken."""
        size = size or self.size
        picture, original = decode_with_size(data, side=max(size))
        frame = Frame.centre(picture, size)
        if self.crop == "random":
            frame = frame.anywhere(rng)
        picture = frame.cut(picture)
        flipped = self.flip and rng.random() < 0.5
        if flipped:
            picture = ImageOps.mirror(picture)
        placement = frame.placement(original, flipped=flipped)
        return Cut({"image": np.asarray(picture), "geometry": placement.geometry}, placement)

    def placement(self, data: bytes, size: Size | None = None) -> Placement:
        """Return how a file would be cut at the centre, without decoding its image; see `Transform`. Raises Broken."""
        original = read_header(data)
        return Frame.centre(original, size or self.size).placement(original)

    def still(self) -> ImageTransform:
        """Return the transform to the same size that always cuts at the centre and never flips."""
        return ImageTransform(self.size)


class LatentTransform(Transform):
    """Cached moments, a frozen text encoder's tokens of all captions of the sample, and a frozen vision encoder's features.

    Args:
        flip: Take the moments of the mirrored image half of the time, and then its features.
        text: Read the tokens, too; a latent without them is then broken.
        features: Read the features, too; a latent without them is then broken.
    """

    def __init__(self, *, flip: bool = False, text: bool = False, features: bool = False) -> None:
        self.flip = flip
        self.text = text
        self.features = features

    @property
    def deterministic(self) -> bool:
        """True where a sample always gives the same."""
        return not self.flip

    def __repr__(self) -> str:
        return f"LatentTransform(flip={self.flip}, text={self.text}, features={self.features})"

    def __call__(self, data: bytes, rng: random.Random, size: Size | None = None) -> Cut:
        """Return a latent and how its image was cut; see `Transform`. Raises Broken."""
        tensors = unpack_latent(data)
        geometry = _geometry(tensors)
        flipped = self.flip and rng.random() < 0.5
        name = "flipped" if flipped else "moments"
        if name not in tensors:
            raise Broken(f"latent without {name}")
        fields = {"moments": tensors[name], "geometry": geometry}
        if self.features:
            fields["patch_features"] = _features(tensors, FLIPPED_FEATURES if flipped else FEATURES)
        return Cut(
            fields,
            placement_of(geometry, flipped=flipped),
            CachedText.take_from(tensors) if self.text else None,
        )

    def placement(self, data: bytes, size: Size | None = None) -> Placement:
        """Return how the image of a file was cut, without reading its latent; see `Transform`. Raises Broken."""
        return placement_of(_geometry(unpack_latent(data)))

    def still(self) -> LatentTransform:
        """Return the transform that never flips."""
        return LatentTransform(text=self.text)


class CaptionChoice:
    """Takes the caption from the sample's .txt or from a field of its .json, at random among several.

    Args:
        fields: Name -> weight, "txt" for the .txt, else a field of the .json, which may hold a list of captions; those that a
            sample does not have are left out. None: the .txt, or without one the json's "caption".
        shuffle_tags: Put the tags of a caption, which commas part, in a random order.
        keep_tags: The first so many tags stay where they are.
        drop_tags: The probability that another tag is left out.

    Raises:
        ValueError: Where an option has a value that it cannot have.
    """

    def __init__(
        self,
        fields: Mapping[str, float] | None = None,
        *,
        shuffle_tags: bool = False,
        keep_tags: int = 0,
        drop_tags: float = 0.0,
    ) -> None:
        if fields is not None and not (fields and all(weight > 0 for weight in fields.values())):
            raise ValueError(f"caption.fields gives each field a weight above 0, like {{txt: 1, alt: 3}}; got {fields}")
        self.fields = dict(fields) if fields is not None else None
        self.tags = TagVariation(shuffle=shuffle_tags, keep=keep_tags, drop=drop_tags)

    def __call__(self, text: bytes | None, record: bytes | None, rng: Callable[[], random.Random] | None = None) -> str:
        """Return the caption of a sample.

        Args:
            text: Content of its .txt; None where there is none.
            record: Content of its .json; None where there is none.
            rng: Makes what chooses, and is called where there is a choice. None: always the first of the weightiest, with its
                tags as they are.

        Raises:
            Broken: Where there is no caption.
        """
        found, weights = self._found(text, record)
        several = sum(map(len, found.values())) > 1
        if rng is None or not (several or self.tags.active):
            return found[max(found, key=lambda name: weights[name])][0]
        chooser = rng()
        (name,) = chooser.choices(list(found), [weights[name] for name in found]) if several else found
        caption = chooser.choice(found[name]) if several else found[name][0]
        return self.tags(caption, chooser) if self.tags.active else caption

    def varies(self, text: bytes | None, record: bytes | None) -> bool:
        """Return whether chance decides what the caption is. Raises Broken where there is none."""
        return sum(map(len, self._found(text, record)[0].values())) > 1 or self.tags.active

    def all_captions(self, text: bytes | None, record: bytes | None) -> list[str]:
        """Return all captions that a call can return while tags do not vary, each once. Raises Broken where there is none."""
        found, _ = self._found(text, record)
        return list(dict.fromkeys(caption for name in sorted(found) for caption in found[name]))

    def _found(self, text: bytes | None, record: bytes | None) -> tuple[dict[str, list[str]], Mapping[str, float]]:
        """The captions of a sample by the names of their fields, and the weights of the fields."""
        written = "" if text is None else decode_text(text)
        weights = self.fields or {"txt" if written else "caption": 1.0}
        content = read_record(record) if record and set(weights) != {"txt"} else {}
        content["txt"] = written
        found = {name: texts for name in weights if (texts := _texts(content.get(name)))}
        if not found:
            raise Broken("no caption")
        return found, weights


def _texts(value: Any) -> list[str]:
    """Return a text, or those of a list of them, that are not empty."""
    values = value if isinstance(value, list) else [value]
    return [text for text in (clean_text(value) for value in values if isinstance(value, str)) if text]


class Frame(NamedTuple):
    """The part of a picture that is shown: it is resized until it just covers the wanted size, then a box is cut out of it.

    Attributes:
        picture: Its size, (width, height).
        cover: Its size when resized, (width, height).
        box: Left, top, right, bottom in the resized picture.
    """

    picture: tuple[int, int]
    cover: tuple[int, int]
    box: tuple[int, int, int, int]

    @staticmethod
    def centre(picture: Header | Image.Image, size: Size) -> Frame:
        """Return the frame of the middle of a picture."""
        scale = max(size.height / picture.height, size.width / picture.width)
        width, height = (max(size.width, round(picture.width * scale)), max(size.height, round(picture.height * scale)))
        left, top = (width - size.width) // 2, (height - size.height) // 2
        return Frame(
            (picture.width, picture.height), (width, height), (left, top, left + size.width, top + size.height)
        )

    def anywhere(self, rng: random.Random) -> Frame:
        """Return a frame as large as this one, at a random place."""
        width, height = self.box[2] - self.box[0], self.box[3] - self.box[1]
        left, top = rng.randint(0, self.cover[0] - width), rng.randint(0, self.cover[1] - height)
        return self._replace(box=(left, top, left + width, top + height))

    def part(self) -> tuple[float, float, float, float]:
        """Return the box in the picture before it is resized."""
        x, y = self.picture[0] / self.cover[0], self.picture[1] / self.cover[1]
        left, top, right, bottom = self.box
        return left * x, top * y, min(self.picture[0], right * x), min(self.picture[1], bottom * y)

    def touched(self) -> tuple[slice, slice]:
        """Return the rows and columns of the picture that are shown at least in part."""
        left, top, right, bottom = self.part()
        return slice(math.floor(top), math.ceil(bottom)), slice(math.floor(left), math.ceil(right))

    @property
    def size(self) -> Size:
        """The size of the result."""
        return Size(self.box[3] - self.box[1], self.box[2] - self.box[0])

    def placement(self, original: Header, *, flipped: bool = False) -> Placement:
        """Return the same for what lies on the picture, which had the size `original` before it was decoded."""
        cover = Size(self.cover[1], self.cover[0])
        return Placement(Size(original.height, original.width), cover, self.box[1], self.box[0], self.size, flipped)

    def cut(self, picture: Image.Image) -> Image.Image:
        """Return the part of a picture that is shown; what lies outside is never computed."""
        if self.cover == picture.size:
            return picture if self.box == (0, 0, *picture.size) else picture.crop(self.box)
        return picture.resize(
            (self.size.width, self.size.height), Image.Resampling.LANCZOS, box=self.part(), reducing_gap=3.0
        )


def placement_of(geometry: Tensor, *, flipped: bool = False) -> Placement:
    """Return the placement of an image, from its field `geometry`, `(6,)`, as it is stored with a latent."""
    height, width, top, left, *size = (int(number) for number in geometry)
    original = Header(width, height)
    centred = Frame.centre(original, Size(*size)).placement(original, flipped=flipped)
    return centred._replace(top=top, left=left)


def _features(tensors: Mapping[str, Tensor], name: str) -> Tensor:
    """The features beside a latent, `(D, h, w)`. Raises Broken where there are none that can be."""
    if name not in tensors:
        raise Broken(f"latent without {name}")
    features = tensors[name]
    if features.ndim != 3 or not features.is_floating_point():
        raise Broken(
            "unreadable latent", f"its {name} have shape {tuple(features.shape)}; (D, h, w) of numbers is needed"
        )
    return features


def _geometry(tensors: Mapping[str, Tensor]) -> Tensor:
    """The geometry beside a latent. Raises Broken where there is none that can be."""
    geometry = tensors.get("geometry")
    if geometry is not None and geometry.shape == (6,):
        numbers = zip(geometry.tolist(), (1, 1, 0, 0, 1, 1), strict=True)
        if all(least <= number < math.inf for number, least in numbers) and bool((geometry[4:] <= LONGEST_SIDE).all()):
            return geometry
    raise Broken("unreadable latent", "its geometry is missing, or is none")
