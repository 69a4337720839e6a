"""Strangers' files: each gives the right picture or text, or the reason why not."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from ldm.data.decode import Broken, decode_image, decode_text, decode_with_size, read_header
from tests.data.small_shards import encoded

RED = (255, 0, 0)


def near(picture, color, tolerance=6):
    return np.abs(np.asarray(picture).astype(int) - np.array(color)).max() <= tolerance


@pytest.mark.parametrize("form", ["jpg", "png", "webp", "gif", "bmp", "avif"])
def test_formats(form):
    picture = decode_image(encoded(Image.new("RGB", (9, 6), RED), form))
    assert (picture.mode, picture.size) == ("RGB", (9, 6))
    assert near(picture, RED)


@pytest.mark.parametrize(
    ("mode", "color", "form", "expected"),
    [
        ("L", 200, "png", (200, 200, 200)),
        ("1", 1, "png", (255, 255, 255)),
        ("LA", (200, 255), "png", (200, 200, 200)),
        ("LA", (200, 0), "png", (255, 255, 255)),
        ("RGBA", (255, 0, 0, 255), "png", RED),
        ("RGBA", (0, 0, 0, 0), "png", (255, 255, 255)),
        ("RGBA", (0, 0, 0, 0), "webp", (255, 255, 255)),
        ("CMYK", (0, 255, 255, 0), "jpg", RED),
        ("I;16", 200 * 257, "png", (200, 200, 200)),
    ],
)
def test_modes(mode, color, form, expected):
    picture = decode_image(encoded(Image.new(mode, (8, 8), color), form))
    assert picture.mode == "RGB"
    assert near(picture, expected)


def test_sixteen_bits_keep_their_gradient():
    gray = (np.arange(256, dtype=np.uint16) * 257).reshape(16, 16)
    assert np.array_equal(np.asarray(decode_image(encoded(Image.fromarray(gray))))[..., 0], gray // 257)


def test_palettes_with_and_without_transparency():
    picture = Image.new("RGB", (8, 8), RED).quantize(4)
    assert near(decode_image(encoded(picture)), RED)
    picture.info["transparency"] = int(np.asarray(picture)[0, 0])
    assert near(decode_image(encoded(picture, transparency=picture.info["transparency"])), (255, 255, 255))


@pytest.mark.parametrize("form", ["gif", "webp", "png"])
def test_of_an_animation_the_first_frame_is_taken(form):
    frames = [Image.new("RGB", (8, 8), color) for color in (RED, "blue", "green")]
    data = encoded(frames[0], form, save_all=True, append_images=frames[1:])
    with Image.open(io.BytesIO(data)) as opened:
        assert opened.n_frames == 3
    assert near(decode_image(data), RED)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["jpg", "png", "webp"])
def test_pictures_stand_upright(form, orientation):
    upright = Image.new("RGB", (32, 16), "white")
    upright.paste(RED, (0, 0, 16, 8))
    turn = {
        2: [Image.Transpose.FLIP_LEFT_RIGHT],
        3: [Image.Transpose.ROTATE_180],
        4: [Image.Transpose.FLIP_TOP_BOTTOM],
        5: [Image.Transpose.TRANSPOSE],
        6: [Image.Transpose.ROTATE_90],
        7: [Image.Transpose.TRANSVERSE],
        8: [Image.Transpose.ROTATE_270],
    }
    lying = upright
    for step in turn.get(orientation, []):
        lying = lying.transpose(step)
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(lying, form, exif=exif, quality=100)
    picture, size = decode_with_size(data)
    assert picture.size == (32, 16) == tuple(size) == tuple(read_header(data))
    assert near(picture.crop((2, 2, 14, 6)), RED, 30)
    assert near(picture.crop((18, 10, 30, 14)), (255, 255, 255), 30)


def test_jpegs_are_decoded_small_where_that_is_enough():
    rng = np.random.default_rng(0)
    smooth = Image.fromarray(rng.integers(0, 255, (16, 16, 3), dtype=np.uint8)).resize(
        (1024, 512), Image.Resampling.BICUBIC
    )
    data = encoded(smooth, "jpg", quality=95)
    small, size = decode_with_size(data, side=64)
    assert small.size == (128, 64)
    assert tuple(size) == (1024, 512)
    exact = decode_image(data).resize((128, 64), Image.Resampling.LANCZOS)
    assert np.abs(np.asarray(small).astype(float) - np.asarray(exact)).mean() < 1.5
    assert decode_image(data, side=300).size == (1024, 512), "never smaller than asked for"


def bomb(width, height):
    """A PNG of a few bytes that says that it is huge."""
    chunk = lambda kind, data: struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))  # noqa: E731
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 1000))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty image file"),
        (b"no image at all", "unreadable image"),
        (encoded(Image.new("RGB", (64, 64), RED), "jpg")[:300], "unreadable image"),
        (encoded(Image.effect_noise((64, 64), 50), "png")[:900], "unreadable image"),
        (bomb(60_000, 60_000), "too many pixels"),
        (bomb(64, 64), "unreadable image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", "unreadable image"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "unreadable image"),
    ],
)
def test_broken_images_are_refused_by_reason(data, reason):
    with pytest.raises(Broken) as caught:
        decode_image(data)
    assert caught.value.reason == reason
    assert " object at 0x" not in str(caught.value)


@pytest.mark.parametrize("form", ["jpg", "png", "webp", "avif", "gif", "bmp"])
def test_no_damage_whatsoever_ends_a_program(form):
    """Any byte changed, any length cut: a picture or a verdict, nothing else."""
    rng = np.random.default_rng(0)
    exif = Image.Exif()
    exif[0x0112] = 6
    options = {} if form in ("gif", "bmp") else {"exif": exif}
    whole = encoded(Image.effect_noise((48, 32), 60).convert("RGB"), form, **options)
    verdicts = 0
    for _ in range(300):
        data = bytearray(whole[: rng.integers(1, len(whole) + 1)] if rng.random() < 0.5 else whole)
        for place in rng.integers(0, len(data), rng.integers(1, 8)):
            data[place] = rng.integers(256)
        try:
            assert decode_image(bytes(data)).mode == "RGB"
        except Broken:
            verdicts += 1
    assert verdicts > 50


@pytest.mark.parametrize(
    "data",
    [
        "ein häßliches Bild".encode(),
        "ein häßliches Bild".encode("utf-8-sig"),
        "ein häßliches Bild".encode("utf-16"),
        b"\xfe\xff" + "ein häßliches Bild".encode("utf-16-be"),
        "ein häßliches Bild".encode("cp1252"),
        " ein häßliches Bild \r\n\0".encode(),
    ],
)
def test_text_in_any_encoding(data):
    assert decode_text(data) == "ein häßliches Bild"
