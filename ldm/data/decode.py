"""Decode the bytes of a stranger's file: they become a picture or a text, or a reason why they cannot be used."""

from __future__ import annotations

import io
import math
import struct
import zlib
from typing import NamedTuple

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from ldm.files.text import clean_text

MAX_PIXELS = 2**27
"""Pictures with more are taken for decompression bombs: 134 million pixels, 400 MB as RGB. (Pillow warns of 89 million.)"""

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "AVIF", "TIFF")
"""Formats that may hide behind an image's name; Pillow's other readers never see a stranger's bytes."""

TIFF_COMPRESSIONS = ("raw", "packbits", "tiff_lzw", "tiff_deflate", "tiff_adobe_deflate", "jpeg", "zstd")
"""Ways in which the pixels of a TIFF may be stored; the readers of its old ones never see a stranger's bytes."""

PILLOW_ERRORS = (
    *(OSError, ValueError, SyntaxError, EOFError, IndexError, KeyError, TypeError, OverflowError, MemoryError),
    *(RuntimeError, struct.error, zlib.error),
)
"""Errors that Pillow's readers raise on broken files."""


class Broken(ValueError):  # noqa: N818
    """A sample cannot be used.

    Args:
        reason: A few words, the same for all samples of this kind, by which they are counted.
        detail: More about this one.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.reason} ({self.detail})" if self.detail else self.reason


class Header(NamedTuple):
    """Size of a picture as it is seen, upright, in pixels."""

    width: int
    height: int


def in_proportion(size: Header, width: int, height: int) -> bool:
    """Return whether a picture can be one of the same scene as one of a size: its sides are in proportion, to a pixel."""
    ratio = size.height / size.width
    return abs(width * ratio - height) <= 1 or abs(height / ratio - width) <= 1


def open_image(data: bytes) -> Image.Image:
    """Return a picture whose header has been read and whose pixels have not. Raises Broken."""
    if not data:
        raise Broken("empty image file")
    try:
        opened = Image.open(io.BytesIO(data), formats=FORMATS)
        if opened.format == "TIFF":
            _check_tiff(opened)
    except Broken:
        raise
    except Image.DecompressionBombError as error:
        raise Broken("too many pixels", _line(error)) from error
    except PILLOW_ERRORS as error:
        raise Broken("unreadable image", _line(error)) from error
    width, height = opened.size
    if width * height > MAX_PIXELS:
        raise Broken("too many pixels", f"{width} x {height}; at most {MAX_PIXELS} are read")
    return opened


def read_header(data: bytes) -> Header:
    """Return the size of a picture from the first kilobytes of its file. Raises Broken."""
    opened = open_image(data)
    width, height = opened.size
    return Header(height, width) if _orientation(opened) >= 5 else Header(width, height)


def decode_image(data: bytes, *, side: int | None = None, background: str = "white") -> Image.Image:
    """Return the picture in the bytes of an image file: RGB, 8 bits, upright, its first frame.

    Args:
        data: Bytes of the file.
        side: Where given, formats that can do so are decoded at a reduced scale whose shorter side is no less than this.
        background: Colour behind transparent pixels.

    Raises:
        Broken: Where there is no picture in the bytes, or not all of it.
    """
    return decode_with_size(data, side=side, background=background)[0]


def decode_with_size(data: bytes, *, side: int | None = None, background: str = "white") -> tuple[Image.Image, Header]:
    """Decode an image as `decode_image` does, and also return the size of the original."""
    opened = open_image(data)
    width, height = opened.size
    try:
        if side is not None and min(width, height) >= 2 * side:
            opened.draft(None, (side, side))
        opened.load()
        turned = _orientation(opened)
        if turned != 1:
            opened = ImageOps.exif_transpose(opened)
        size = Header(height, width) if turned >= 5 else Header(width, height)
        return _opaque(opened, background), size
    except Broken:
        raise
    except PILLOW_ERRORS as error:
        raise Broken("unreadable image", _line(error)) from error


def decode_text(data: bytes) -> str:
    """Return the text in the bytes of a text file, without surrounding space.

    UTF-8, UTF-16 with its mark, and, where the bytes are neither, Windows' Western European.
    """
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        text = data.decode("utf-16", errors="replace")
    else:
        try:
            text = data.decode("utf-8-sig")
        except UnicodeDecodeError:
            text = data.decode("cp1252", errors="replace")
    return clean_text(text)


def _check_tiff(opened: Image.Image) -> None:
    """Raise Broken where reading a TIFF would take code that is rarely used, or memory that its size does not tell."""
    compression = opened.info.get("compression")
    if compression not in TIFF_COMPRESSIONS:
        raise Broken("unreadable image", f"a TIFF with compression {compression}, which is not read; convert it to png")
    if opened.tag_v2.get(262) == 0 and opened.mode not in ("1", "L"):  # type: ignore[attr-defined]
        raise Broken("unreadable image", "a TIFF of more than 8 bits in which 0 is white; convert it to png")
    tile = [opened.tag_v2.get(tag, 0) for tag in (322, 323)]  # type: ignore[attr-defined]
    if tile[0] * tile[1] > MAX_PIXELS:
        raise Broken("too many pixels", f"a tile of {tile[0]} x {tile[1]}; at most {MAX_PIXELS} are read")


def _orientation(picture: Image.Image) -> int:
    """EXIF's orientation, 1 to 8; 1, upright, where it is missing or nonsense."""
    try:
        value = picture.getexif().get(0x0112, 1) if "exif" in picture.info else 1
    except PILLOW_ERRORS:
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _opaque(picture: Image.Image, background: str) -> Image.Image:
    if picture.mode == "RGB" and "transparency" not in picture.info:
        return picture
    if picture.mode.startswith("I") or picture.mode == "F":
        return Image.fromarray(_levels(picture)).convert("RGB")
    if picture.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in picture.info:
        rgba = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, background), rgba).convert("RGB")
    return picture.convert("RGB")


def _levels(picture: Image.Image) -> np.ndarray:
    """Gray of 16 bits (which Pillow would clip, not scale) as 8 bits; floating point is read as in [0, 1].

    Raises Broken where values lie outside that range: nothing says which of them would be white.
    """
    values = np.nan_to_num(np.asarray(picture).astype(np.float32), posinf=np.inf, neginf=-np.inf)
    low, high, white = values.min(), values.max(), 1.0 if picture.mode == "F" else 65535.0
    if low < 0 or high > white:
        raise Broken("unreadable image", f"its gray values go from {low:g} to {high:g}, not from 0 to {white:g}")
    values = values * 255.0 if picture.mode == "F" else values / 257.0
    return np.rint(np.clip(values, 0, 255)).astype(np.uint8)


def _line(error: BaseException) -> str:
    """Return the first line of what an error says; of a file that is no picture, that alone."""
    if isinstance(error, UnidentifiedImageError):  # whose message shows an object in memory
        return "it holds no picture of a format that is read"
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def decode_array(data: bytes) -> NDArray[np.float32]:
    """Return the array in a .npy file of floating-point numbers, in float32.

    Nothing in the file is run, and nothing is reserved for values that it does not hold.

    Args:
        data: Bytes of the file.

    Raises:
        Broken: Where it is no such file, is cut off or empty, or holds numbers that are not finite.
    """
    file = io.BytesIO(data)
    try:
        version = npy.read_magic(file)
        if version not in ((1, 0), (2, 0)):
            raise Broken("unreadable array", f"its format has version {version}")
        read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, columns_first, kind = read(file)
    except (ValueError, SyntaxError, RecursionError, MemoryError, EOFError, struct.error) as error:
        raise Broken("unreadable array", _line(error)) from error
    size = math.prod(shape) * kind.itemsize
    if kind.kind != "f" or not all(type(length) is int and length > 0 for length in shape):
        raise Broken("unreadable array", f"it has shape {shape} of {kind}, not numbers in floating point")
    if size != len(data) - file.tell():
        raise Broken("unreadable array", f"its shape {shape} does not fit its {len(data)} bytes")
    stored = np.frombuffer(data, kind, offset=file.tell()).reshape(shape, order="F" if columns_first else "C")
    with np.errstate(over="ignore"):
        values = np.array(stored, np.float32, order="C")
    if not np.isfinite(values).all():
        raise Broken("unreadable array", "not all of its numbers are finite")
    return values
