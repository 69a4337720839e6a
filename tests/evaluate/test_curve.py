"""The axes of the curve of several checkpoints."""

import pytest
from matplotlib.figure import Figure
from PIL import Image

from ldm.evaluate.curve import _limit, write_curve


@pytest.mark.parametrize(
    ("values", "low", "high"),
    [
        ([0.998, 1.0, 1.0], 0.9, 1.0),
        ([1.0, 1.0], 0.945, 1.0),
        ([0.2, 1.0], 0.16, 1.0),
        ([0.02, 0.0201], 0.01905, 0.02105),
        ([0.0, 0.0], -0.055, 0.055),
        ([3.0, 3.1], 2.995, 3.105),
    ],
)
def test_shares_are_neither_shown_beyond_1_nor_magnified_where_they_hardly_differ(values, low, high):
    axes = Figure().subplots()
    axes.plot(values)
    _limit(axes, values)
    assert axes.get_ylim() == pytest.approx((low, high), abs=2e-3)


def test_panels_of_many_scores_stand_in_rows(tmp_path):
    scores = {f"loss_{number}": 0.1 * number for number in range(8)}
    results = [{"of": f"step-{step}.ckpt", "count": 4, "scores": scores} for step in (10, 20)]
    write_curve(tmp_path, results)
    with Image.open(tmp_path / "curve.png") as picture:
        assert picture.size[0] < 3 * picture.size[1]
    write_curve(tmp_path, [{**result, "scores": {"loss": 0.1}} for result in results])
    with Image.open(tmp_path / "curve.png") as picture:
        assert picture.size[0] < 500, "one panel is not wider than others"
