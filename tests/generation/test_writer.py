"""The grid of sampled images."""

import pytest

from ldm.generation.request import SampleRequest
from ldm.generation.writer import grid_columns


def requests(count, seeds, **fields):
    return [
        SampleRequest(f"{label}-{seed}.png", seed=seed, inputs={"label": label}, **fields)
        for label in range(count)
        for seed in range(seeds)
    ]


@pytest.mark.parametrize(
    ("count", "seeds", "columns"),
    [(12, 2, 4), (3, 4, 4), (10, 8, 8), (5, 3, 3), (20, 3, 9), (1, 9, None), (6, 1, None), (64, 1, None)],
)
def test_images_of_one_condition_are_in_one_row(count, seeds, columns):
    found = grid_columns(requests(count, seeds))
    assert found == columns
    assert found is None or found % seeds == 0


def test_where_conditions_have_different_numbers_of_images_nothing_is_arranged():
    assert grid_columns(requests(4, 2)[:7]) is None
    assert grid_columns([]) is None
