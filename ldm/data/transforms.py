"""From the bytes of a sample to an image tensor and a caption."""

from __future__ import annotations

import io
import json
import random
from typing import Literal

from PIL import Image, ImageOps
from torch import Tensor

from ldm.picture import to_tensor


class ImageTransform:
    """Decode, resize the shorter side, crop a square, flip.

    side  of the result
    crop  "center" or "random"
    flip  mirror half of the images, left to right
    """

    def __init__(self, side: int, *, crop: Literal["center", "random"] = "center", flip: bool = False) -> None:
        if crop not in ("center", "random"):
            raise ValueError(f"crop is 'center' or 'random'; got {crop!r}")
        self.side = side
        self.crop = crop
        self.flip = flip

    @property
    def deterministic(self) -> bool:
        """Whether an image always gives the same tensor."""
        return self.crop == "center" and not self.flip

    def __repr__(self) -> str:
        return f"ImageTransform({self.side}, crop={self.crop!r}, flip={self.flip})"

    def __call__(self, data: bytes, chance: random.Random) -> Tensor:
        """Bytes of an image file -> `(3, side, side)` in [-1, 1]. Transparent pixels become white."""
        with Image.open(io.BytesIO(data)) as opened:
            if min(opened.size) > 2 * self.side:
                opened.draft("RGB", (self.side, self.side))
            picture = _opaque(ImageOps.exif_transpose(opened))
        picture = self._crop(self._resize(picture), chance)
        if self.flip and chance.random() < 0.5:
            picture = ImageOps.mirror(picture)
        return to_tensor(picture)

    def _resize(self, picture: Image.Image) -> Image.Image:
        shorter = min(picture.size)
        if shorter == self.side:
            return picture
        width, height = (max(self.side, round(length * self.side / shorter)) for length in picture.size)
        return picture.resize((width, height), Image.Resampling.LANCZOS, reducing_gap=3.0)

    def _crop(self, picture: Image.Image, chance: random.Random) -> Image.Image:
        spare = (picture.width - self.side, picture.height - self.side)
        left, top = (chance.randint(0, s) if self.crop == "random" else s // 2 for s in spare)
        return picture.crop((left, top, left + self.side, top + self.side))


class CaptionChoice:
    """Takes the caption from the sample's .txt or from a field of its .json.

    field  of the json; None: the .txt where there is one, else the json's "caption"
    """

    def __init__(self, field: str | None = None) -> None:
        self.field = field

    def __call__(self, text: bytes | None, record: bytes | None, where: str) -> str:
        """Contents of .txt and .json -> caption. Raises ValueError naming `where` if there is none."""
        if self.field is None and text is not None:
            found = text.decode("utf-8", errors="replace")
            source = "its .txt is empty"
        else:
            field = self.field or "caption"
            found = _field(record, field)
            source = f"its json gives no text for {field!r}"
        if not found.strip():
            raise ValueError(
                f"{where} has no caption: {source}; "
                "set data.caption.field to a field with text, add a .txt, or leave the sample out"
            )
        return found.strip()


def _field(record: bytes | None, field: str) -> str:
    """A text field of a json object; "" where there is none."""
    try:
        content = json.loads(record or b"{}")
    except ValueError:
        return ""
    value = content.get(field) if isinstance(content, dict) else None
    return value if isinstance(value, str) else ""


def _opaque(picture: Image.Image) -> Image.Image:
    if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
        rgba = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return picture.convert("RGB")
