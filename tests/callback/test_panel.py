"""Panels of curves: what a reader could misread is drawn so that he does not."""

import json

import pytest
import yaml
from matplotlib.figure import Figure

from ldm.callback.end_values import NO_ENDS, EndValues, read_config, read_end_values
from ldm.callback.panel import END_MARKER, TICKS, draw_panel, set_log_scale


def drawn(title, curves, ends=NO_ENDS):
    """Return the axes of a panel."""
    axes = Figure().add_subplot()
    draw_panel(axes, title, curves, ends)
    axes.figure.draw_without_rendering()
    return axes


def stage_options(num_images=64, final_images=5000):
    return {
        "trainer": {"max_steps": 20},
        "callbacks": {"evaluation": {"num_images": num_images, "final_images": final_images}, "ema": {"decay": 0.9}},
    }


@pytest.mark.parametrize(
    ("low", "high"), [(0.0051, 0.3), (6.1, 28.0), (1.01, 1.3), (0.00003, 4000.0), (900.0, 1100.0), (0.1, 1.0)]
)
def test_a_logarithmic_axis_has_several_plain_numbers(low, high):
    axes = drawn("loss", {"a": [(1, low), (2, high)]})
    bottom, top = axes.get_ylim()
    shown = [
        text.get_text()
        for text, place in zip(axes.get_yticklabels(), axes.get_yticks(), strict=True)
        if bottom <= place <= top
    ]
    assert TICKS - 1 <= len(shown) <= 10
    assert all(float(text) > 0 and "$" not in text for text in shown), shown
    assert len(set(shown)) == len(shown)


def test_scores_of_the_end_are_not_joined_and_are_explained(tmp_path):
    ends = read_end_values(tmp_path, stage_options())
    assert ends == EndValues(frozenset({20}), "at the end, of up to 5,000 images")
    axes = drawn("Fréchet distance", {"eval/fid": [(5, 700.0), (10, 650.0), (20, 370.0)]}, ends)
    line, end, legend = axes.lines
    assert list(line.get_xdata()) == [5, 10]
    assert (list(end.get_xdata()), end.get_marker(), end.get_linestyle()) == ([20], END_MARKER, "None")
    assert end.get_color() == line.get_color()
    assert (list(legend.get_xdata()), legend.get_label()) == ([], "at the end, of up to 5,000 images")
    axes = drawn("loss", {"val/loss": [(5, 3.0), (20, 1.0)]}, ends)
    assert [list(line.get_xdata()) for line in axes.lines] == [[5, 20]], "validation measures the same images"
    axes = drawn("accuracy", {"eval/a": [(20, 1.0)]}, ends)
    assert axes.get_legend_handles_labels()[1] == ["eval/a", "at the end, of up to 5,000 images"]


def test_ends_are_where_the_number_of_images_changes(tmp_path):
    assert read_end_values(tmp_path, stage_options(64, 64)) == NO_ENDS
    assert read_end_values(tmp_path, stage_options(64, None)).label == "at the end, of all images"
    assert read_end_values(tmp_path, stage_options(64, 32)).label == "at the end, of up to 32 images"
    assert read_end_values(tmp_path, {"trainer": {"max_steps": 20}}) == NO_ENDS
    assert read_end_values(tmp_path, None) == NO_ENDS
    (tmp_path / "results-1.json").write_text(json.dumps({"steps": 10}))
    (tmp_path / "results-2.json").write_text("{")
    assert read_end_values(tmp_path, stage_options()).steps == {10, 20}, "before a run was lengthened"
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"stage": {"a": stage_options()}}))
    assert read_config(tmp_path) == {"a": stage_options()}
    (tmp_path / "config.yaml").write_text("[")
    assert read_config(tmp_path) == {}


def test_a_curve_that_lies_on_another_is_dashed():
    points = [(step, float(step)) for step in range(1, 9)]
    axes = drawn("accuracy", {"a": points, "b": points, "c": [(1, 1.02), *points[1:]], "d": [(1, 5.0), (8, 1.0)]})
    styles = [line.is_dashed() for line in axes.lines]
    assert styles == [False, True, True, False]
    axes = drawn("loss", {"a": points, "b": [(step, value * 1.5) for step, value in points]})
    assert [line.is_dashed() for line in axes.lines] == [False, False]


def test_values_that_a_logarithmic_axis_cannot_show_are_reported():
    curves = {"train/loss": [(1, 2.0), (2, 1.0)], "train/adversarial": [(1, 0.0), (2, 0.5)]}
    assert drawn("loss", curves).get_legend_handles_labels()[1] == ["train/loss", "train/adversarial (where above 0)"]
    axes = drawn("loss", {"train/adversarial": [(1, 0.0), (2, -0.5)]})
    assert (axes.get_yscale(), axes.get_legend_handles_labels()[1]) == ("linear", ["train/adversarial"])


def test_ticks_stay_inside_of_the_axis():
    axes = Figure().add_subplot()
    axes.plot([1, 2], [3.0, 4.0])
    set_log_scale(axes)
    low, high = axes.get_ylim()
    assert all(low <= tick <= high for tick in axes.get_yticks())
