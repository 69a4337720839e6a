"""Mask generators: the masked fraction is in its range, the same generator gives the same mask, strokes are connected."""

import random

import numpy as np
import pytest

from ldm.batch import Size
from ldm.config import build, compose
from ldm.data.masks.boxes import Boxes
from ldm.data.masks.mixed import Mixed
from ldm.data.masks.strokes import Strokes

SIZES = [pytest.param(Size(256, 256), marks=pytest.mark.slow), Size(32, 32), Size(16, 40)]


def components(mask):
    """The number of connected parts of a mask."""
    left, count = set(zip(*np.nonzero(mask))), 0
    while left:
        count += 1
        front = [left.pop()]
        while front:
            row, column = front.pop()
            near = {(row + y, column + x) for y in (-1, 0, 1) for x in (-1, 0, 1)} & left
            left -= near
            front += near
    return count


def made(name):
    return build(compose("train", [f"masks={name}"]).data.mask)


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("name", ["strokes", "boxes", "mixed"])
def test_masks_are_in_range_and_depend_on_the_generator_alone(name, size):
    generator, again = made(name), made(name)
    masks = [generator(size, random.Random(seed)) for seed in range(60)]
    assert all(mask.shape == tuple(size) and mask.dtype == bool for mask in masks)
    assert all(0.01 <= mask.mean() <= 0.9 for mask in masks)
    assert all(np.array_equal(mask, again(size, random.Random(seed))) for seed, mask in enumerate(masks))
    assert len({mask.tobytes() for mask in masks}) > 50
    assert 0.05 < np.mean(masks) < 0.6
    everywhere = np.any(masks, axis=0)
    assert everywhere[:, : size.width // 2].any()
    assert everywhere[:, size.width // 2 :].any()


@pytest.mark.parametrize("size", [Size(64, 64), Size(16, 40)], ids=str)
@pytest.mark.parametrize("generator", [Strokes(count=(1, 1)), Strokes(count=(1, 1), width=(1, 3)), Boxes(count=(1, 1))])
def test_one_stroke_and_one_box_are_connected(generator, size):
    assert {components(generator(size, random.Random(seed))) for seed in range(40)} == {1}


def test_boxes_have_sides_and_margins_as_said_and_strokes_are_as_wide_as_said():
    size = Size(128, 128)
    for seed in range(60):
        mask = Boxes(count=(1, 1))(size, random.Random(seed))
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        assert mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
        assert 15 <= len(rows) <= 75
        assert 15 <= len(columns) <= 75
        assert min(rows[0], columns[0]) >= 5
        assert max(rows[-1], columns[-1]) < 123
    thin, wide = (
        np.mean([Strokes(width=(w, w), fraction=(0, 1))(size, random.Random(seed)).mean() for seed in range(60)])
        for w in (4, 60)
    )
    assert wide > 3 * thin


def test_mixed_masks_come_from_both_by_weight():
    full = Mixed(
        generators={"a": Boxes(side=(256, 256), margin=0), "b": Boxes(side=(64, 64))},
        weights={"a": 3.0, "b": 1.0},
        fraction=(0, 1),
    )
    share = np.mean([full(Size(32, 32), random.Random(seed)).all() for seed in range(400)])
    assert share == pytest.approx(0.75, abs=0.07)


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="none of 1000 masks of 32 x 32 pixels has a fraction from 0.99 to 1"):
        Boxes(fraction=(0.99, 1.0))(Size(32, 32), random.Random(0))
    for options in ({"count": [0, 1]}, {"side": [9, 3]}, {"margin": -1}, {"fraction": [0.5]}, {"fraction": [0, 2]}):
        with pytest.raises(ValueError, match=f"masks.{next(iter(options))}"):
            Boxes(**options)
    for options in ({"parts": [2, 1]}, {"width": [0, 3]}, {"length": [5]}):
        with pytest.raises(ValueError, match=f"masks.{next(iter(options))}"):
            Strokes(**options)
    with pytest.raises(ValueError, match=r"every mask generator has a weight; got generators \['a'\] and weights"):
        Mixed(generators={"a": Boxes()}, weights={})
