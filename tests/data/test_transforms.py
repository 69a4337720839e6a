import json
import random

import numpy as np
import pytest
import torch
from PIL import Image

from ldm.data.decode import Broken
from ldm.data.transforms import CaptionChoice, ImageTransform, Size
from tests.data.small_shards import encoded


def striped():
    picture = Image.new("RGB", (40, 20))
    for x in range(40):
        for y in range(20):
            picture.putpixel((x, y), (6 * x, 0, 12 * y))
    return encoded(picture)


def levels(transform, data, rng, size=None):
    return torch.from_numpy(transform(data, rng, size).fields["image"].copy()).permute(2, 0, 1)


def test_crops_and_flips():
    rng = random.Random(0)
    center = levels(ImageTransform(20), striped(), rng)
    assert center.shape == (3, 20, 20)
    assert center[0, 0].tolist() == [6 * x for x in range(10, 30)]
    seen = {int(levels(ImageTransform(20, crop="random"), striped(), rng)[0, 0, 0]) // 6 for _ in range(300)}
    assert seen == set(range(21)), "every place is cropped"
    flips = [bool(levels(ImageTransform(20, flip=True), striped(), rng)[0, 0, 0] == 6 * 29) for _ in range(300)]
    assert 100 < sum(flips) < 200
    assert levels(ImageTransform(10), striped(), rng).shape == (3, 10, 10)
    assert levels(ImageTransform(64), striped(), rng).shape == (3, 64, 64), "small images are enlarged"
    with pytest.raises(ValueError, match="crop is 'center' or 'random'; got 'middle'"):
        ImageTransform(8, crop="middle")


@pytest.mark.parametrize("size", [Size(20, 40), Size(10, 30), Size(32, 16), Size(64, 64)])
def test_any_size_is_covered_without_distortion(size):
    image = levels(ImageTransform(8), striped(), random.Random(0), size)
    assert image.shape == (3, *size)
    red, blue = image[0].float(), image[2].float()
    scale = max(size.height / 20, size.width / 40)
    middle = slice(size.width // 4, size.width // 2)
    assert float(red[:, middle].diff(dim=1).mean()) == pytest.approx(6 / scale, rel=0.15)
    middle = slice(size.height // 4, size.height // 2)
    assert float(blue[middle].diff(dim=0).mean()) == pytest.approx(12 / scale, rel=0.15)


@pytest.mark.parametrize("shape", [(97, 61), (33, 200), (500, 31)])
@pytest.mark.parametrize("size", [Size(24, 24), Size(16, 40), Size(80, 80)])
def test_resizing_only_what_is_cut_out_changes_nothing(shape, size):
    """Of noise that stays clear of black and white, where the order of Pillow's two passes would matter."""
    picture = Image.effect_noise(shape, 20).convert("RGB")
    scale = max(size.height / shape[1], size.width / shape[0])
    whole = (max(size.width, round(shape[0] * scale)), max(size.height, round(shape[1] * scale)))
    left, top = (whole[0] - size.width) // 2, (whole[1] - size.height) // 2
    resized = picture.resize(whole, Image.Resampling.LANCZOS)
    expected = np.asarray(resized.crop((left, top, left + size.width, top + size.height))).astype(int)
    found = ImageTransform(8)(encoded(picture), random.Random(0), size).fields["image"].astype(int)
    assert np.abs(found - expected).mean() < 2.0
    if scale > 1 / 3:
        assert np.abs(found - expected).max() <= 2, "without a first rough reduction they are equal"


def test_a_picture_as_thin_as_a_hair_costs_no_more_than_others():
    """Enlarged whole, it would have 65 million pixels."""
    item = ImageTransform(256)(encoded(Image.new("RGB", (1, 100_000), "red")), random.Random(0))
    assert item.fields["image"].shape == (256, 256, 3)
    assert item.fields["geometry"][:2].tolist() == [100_000, 1]


def test_geometry_tells_how_an_image_was_cut():
    """Undoing the crop by its own numbers finds the place in the original."""
    rng = random.Random(1)
    for _ in range(20):
        item = ImageTransform(20, crop="random")(striped(), rng)
        height, width, top, left, *size = item.fields["geometry"].tolist()
        assert (height, width, size) == (20, 40, [20, 20])
        assert item.fields["image"][0, 0, 0] == 6 * left
        assert item.fields["image"][0, 0, 2] == 12 * top
    assert ImageTransform(10)(striped(), rng).fields["geometry"].tolist() == [20, 40, 0, 5, 10, 10]


def test_transparency_becomes_white():
    data = encoded(Image.new("RGBA", (8, 8), (0, 0, 0, 0)))
    assert ImageTransform(8)(data, random.Random(0)).fields["image"].min() == 255


def record(**content):
    return json.dumps(content).encode()


def test_caption_of_txt_or_json():
    choose = CaptionChoice()
    assert choose("  vom Text: häßlich \n".encode(), record(caption="json")) == "vom Text: häßlich"
    assert choose(None, record(caption=" from json ")) == "from json"
    assert choose(b" \n", record(caption="json")) == "json", "an empty .txt is none"
    assert choose(None, b'{"caption": "cut in half \\ud83d"}').encode().startswith(b"cut in half")
    assert CaptionChoice({"alt": 1})(b"txt", record(caption="json", alt="other")) == "other"


def test_captions_are_drawn_by_weight_from_those_there_are():
    choose = CaptionChoice({"txt": 1, "blip": 3, "alts": 4})
    rng = random.Random(0)
    content = record(blip="b", alts=["x", "", "y", 5])
    drawn = [choose(b"t", content, lambda: rng) for _ in range(4000)]
    for text, fraction in (("t", 1 / 8), ("b", 3 / 8), ("x", 2 / 8), ("y", 2 / 8)):
        assert drawn.count(text) / 4000 == pytest.approx(fraction, abs=0.03)
    assert choose(b"t", content) == "x", "without chance the first of the weightiest"
    assert {choose(b"t", record(alts=[]), lambda: rng) for _ in range(50)} == {"t"}


@pytest.mark.parametrize(
    ("text", "content"),
    [(b" \n", None), (None, b"{"), (None, b"[]"), (None, b'{"caption": ""}'), (None, b'{"caption": 3}')],
)
def test_no_caption_is_said(text, content):
    with pytest.raises(Broken, match="no caption"):
        CaptionChoice()(text, content)


def test_weights_are_checked():
    with pytest.raises(ValueError, match="a weight above 0"):
        CaptionChoice({"txt": 0})
