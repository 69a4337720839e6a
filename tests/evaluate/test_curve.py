"""The axes of the curve of several checkpoints."""

import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from ldm.evaluate.curve import _limit, write_curve
from ldm.evaluate.several import measure_several


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


def test_checkpoints_of_two_runs_are_two_lines(tmp_path, monkeypatch):
    drawn, lines, plot, ticks, set_xticks = [], [], Axes.plot, [], Axes.set_xticks

    def watched(self, places, values, **options):
        drawn.append((options["label"], list(places), list(values)))
        lines.append(options["linestyle"])
        return plot(self, places, values, **options)

    def watched_ticks(self, places, names, **options):
        ticks.append(names)
        return set_xticks(self, places, names, **options)

    monkeypatch.setattr(Axes, "plot", watched)
    monkeypatch.setattr(Axes, "set_xticks", watched_ticks)
    results = [
        {"of": f"runs/{run}/step-{step}.ckpt", "count": 4, "scores": {"loss": loss}}
        for step, run, loss in ((20, "b", 0.3), (10, "a", 0.5), (20, "a", 0.4), (10, "b", 0.6))
    ]
    write_curve(tmp_path, results)
    assert drawn == [("a", [10, 20], [0.5, 0.4]), ("b", [10, 20], [0.6, 0.3])]
    assert lines == ["-", "-"]
    drawn.clear()
    lines.clear()
    write_curve(tmp_path, [{**result, "of": result["of"].replace("step-", "model")} for result in results])
    assert [values for _, _, values in drawn] == [[0.3, 0.5, 0.4, 0.6]], "places of models without steps"
    assert lines == ["none"], "nothing lies between models that are no steps of one run"
    assert ticks == [["b/model20.ckpt", "a/model10.ckpt", "a/model20.ckpt", "b/model10.ckpt"]]
    write_curve(tmp_path, [{**results[0], "of": f"runs/{run}/model.safetensors"} for run in "ab"])
    assert ticks[-1] == ["a", "b"]


def measured(files, out):
    """Return the folder into which each checkpoint is measured."""
    found = {}

    def measure(file, folder):
        found[file] = folder.name
        return {"of": file, "count": 1, "scores": {"loss": 1.0}}

    measure_several(files, out, lambda folder: None, measure)
    return found


def test_each_checkpoint_has_a_folder_of_its_own(tmp_path):
    """Runs of a sweep have points in their names, which are no endings."""
    runs = [tmp_path / name for name in ("lr=0.1", "lr=0.2", "lr=0.2b")]
    for run in runs[:2]:
        run.mkdir()
    runs[2] = runs[2].with_name("lr=0.2b.ckpt")
    runs[2].touch()
    assert list(measured([*map(str, runs)], tmp_path / "out").values()) == ["lr=0.1", "lr=0.2", "lr=0.2b"]
    alike = [str(tmp_path / "a.ckpt"), str(tmp_path / "a.safetensors")]
    with pytest.raises(ValueError, match="would both be measured into the folder a of out; name them in two commands"):
        measured(alike, tmp_path / "new")
    assert not (tmp_path / "new").exists()
