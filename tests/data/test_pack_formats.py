"""Files of all endings: what an image's is, what is inside, and what becomes of it."""

import struct

import numpy as np
import pytest
from PIL import Image

from ldm.data.decode import Broken, decode_image, decode_with_size, read_header
from tests.data.small_shards import encoded


def tiff(picture, **options):
    return encoded(picture, "tiff", **options)


@pytest.mark.parametrize("compression", [None, "packbits", "tiff_lzw", "tiff_adobe_deflate", "jpeg"])
def test_tiffs_of_today(compression):
    picture = decode_image(tiff(Image.new("RGB", (9, 6), (255, 0, 0)), compression=compression))
    assert (picture.mode, picture.size) == ("RGB", (9, 6))
    assert np.abs(np.asarray(picture).astype(int) - (255, 0, 0)).max() <= 6


@pytest.mark.parametrize(
    ("mode", "color", "expected"),
    [
        ("1", 1, (255, 255, 255)),
        ("L", 200, (200, 200, 200)),
        ("I;16", 200 * 257, (200, 200, 200)),
        ("I;16B", 200 * 257, (200, 200, 200)),
        ("F", 0.5, (128, 128, 128)),
        ("CMYK", (0, 255, 255, 0), (255, 0, 0)),
        ("RGBA", (0, 0, 0, 0), (255, 255, 255)),
    ],
)
def test_tiffs_of_all_modes(mode, color, expected):
    assert decode_image(tiff(Image.new(mode, (8, 8), color))).getpixel((3, 3)) == expected


@pytest.mark.parametrize("orientation", range(1, 9))
def test_tiffs_stand_upright(orientation):
    lying = Image.new("RGB", (32, 16) if orientation < 5 else (16, 32), "white")
    data = tiff(lying, tiffinfo={274: orientation})
    picture, size = decode_with_size(data)
    assert picture.size == (32, 16) == tuple(size) == tuple(read_header(data))


def _tiff_of(tags=()):
    """A TIFF's header and tags, without any pixels."""
    entries = sorted(
        {256: 64, 257: 64, 258: 8, 259: 1, 262: 1, 273: 8, 277: 1, 278: 64, 279: 4096, **dict(tags)}.items()
    )
    body = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries)
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + body + bytes(5000)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (tiff(Image.new("F", (8, 8), 300.0)), "gray values go from 300 to 300, not from 0 to 1"),
        (tiff(Image.new("I", (8, 8), 70000)), "gray values go from 70000 to 70000, not from 0 to 65535"),
        (
            tiff(Image.new("1", (8, 8)), compression="group4"),
            "compression group4, which is not read; convert it to png",
        ),
        (_tiff_of()[:40], "unreadable image"),
        (_tiff_of({256: 2**30}), "too many pixels"),
    ],
)
def test_tiffs_that_cannot_be_read_say_why(data, message):
    with pytest.raises(Broken) as caught:
        decode_image(data)
    assert message in str(caught.value)


def test_a_tiff_with_a_tile_larger_than_any_image_is_refused_by_its_header():
    tags = {322: 2**15, 323: 2**15, 324: 8, 325: 4096}
    with pytest.raises(Broken, match="too many pixels"):
        read_header(_tiff_of(tags))


@pytest.mark.parametrize("compression", [None, "tiff_lzw", "jpeg"])
def test_no_damage_to_a_tiff_ends_a_program(compression):
    """Bytes changed in the header, among the tags and in the pixels: a picture or a verdict, nothing else."""
    rng = np.random.default_rng(0)
    whole = tiff(Image.effect_noise((48, 32), 60).convert("RGB"), compression=compression)
    verdicts = 0
    for _ in range(200):
        data = bytearray(whole[: rng.integers(1, len(whole) + 1)] if rng.random() < 0.2 else whole)
        for place in rng.choice([*range(min(len(data), 200)), *range(-min(len(data), 200), 0)], 4):
            data[place] = rng.integers(256)
        try:
            assert decode_image(bytes(data)).mode == "RGB"
        except Broken:
            verdicts += 1
    assert verdicts > 50
