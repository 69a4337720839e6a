"""`python -m ldm.compare`: tables, verdicts, pictures and expected curves of runs."""

import json
import re
from dataclasses import replace

import pytest
from PIL import Image

from ldm.cli.entry import read_command_line
from ldm.compare import expected as expected_curves
from ldm.compare import program
from ldm.compare.expected import read_expected, shipped
from ldm.compare.options import different_options, trained_alike
from ldm.config import CONFIGS, compose
from tests.report.browser import look
from tests.report.folders import CONFIG, a_record, write_run


@pytest.fixture
def compare(tmp_path, capsys, request, monkeypatch):
    """The program with the words that were typed; returns what was printed. Only tests that ask for `drawn` draw."""
    if "drawn" not in request.fixturenames:
        monkeypatch.setattr(program, "draw_all", lambda panels, file: None)
        monkeypatch.setattr(program, "charts", lambda panels: {})

    def run(*words):
        options = ["out=" + str(tmp_path / "out")] if not any(str(word).startswith("out=") for word in words) else []
        line = read_command_line("compare", [*map(str, words), *options], "", "runs", paths=True)
        program.main(compose("compare", list(line.options)))
        return capsys.readouterr().out

    return run


@pytest.fixture
def drawn():
    """Let the program draw."""


@pytest.fixture
def seeds(tmp_path):
    """Runs that differ in their seeds alone."""
    return [write_run(tmp_path / f"seed={seed}", seed=seed, record=a_record()) for seed in (1, 2, 3)]


def other(path, **options):
    """Return a run with another learning rate."""
    config = json.loads(json.dumps(CONFIG))
    config["stage"]["diffusion"]["optimizer"]["lr"] = 0.1
    return write_run(path, config=config, record=a_record(), **options)


def test_runs_are_compared_with_those_that_differ_in_seeds_alone(compare, seeds, tmp_path, drawn):
    near, far = other(tmp_path / "near", seed=4), other(tmp_path / "far", seed=5, shift=1.0)
    text = compare(*seeds, near, far)
    assert re.search(r"near: agrees in all 3 metrics, within the spread of 3 seeds", text)
    assert re.search(
        r"far: disagrees in 3 of 3 metrics: val/psnr of autoencoder is 3\.\d+ at step 100, where 2\.\d+ is", text
    )
    assert all(f"seed={seed}: agrees in all" in text for seed in (1, 2, 3)), "each to the others"
    assert "stage.diffusion.optimizer.lr" in text
    assert "The rule: " in text
    written = (tmp_path / "out" / "compare.md").read_text()
    assert re.search(
        r"^\| val/loss \| 2\.\d+ \| 2\.\d+ \| 2\.\d+ \| 2\.\d+ \| 3\.\d+ \| 2\.\d+ ± 0\.\d+ \|$", written, re.MULTILINE
    )
    assert "| trained parameters | 1,234 |" in written
    assert "| seconds | 5.5 |" in written
    assert "| stage.diffusion.optimizer.lr | 0.001 | 0.001 | 0.001 | 0.1 | 0.1 |" in written
    with Image.open(tmp_path / "out" / "compare.png") as picture:
        assert picture.width > 1000


def test_a_curve_is_made_of_runs_and_others_are_compared_with_it(compare, seeds, tmp_path):
    file = tmp_path / "curve.csv"
    assert f"expected curve: {file}" in compare(*seeds, f"curve={file}")
    text = file.read_text()
    assert text.startswith("# expected curve of hearts\n# seed 1: ldm 0.1.0, torch 2.9; processor: a processor")
    assert "\nstage,metric,step,seed 1,seed 2,seed 3\n" in text
    assert "throughput" not in text
    found = read_expected(file)
    assert (found.title, found.seeds) == ("hearts", 3)
    values = found.values[("diffusion", "val/loss")]
    assert list(values) == list(range(10, 101, 10))
    assert values[100][1] == pytest.approx(
        json.loads((seeds[1] / "diffusion" / "results.json").read_text())["val/loss"], rel=1e-4
    )
    near, far = write_run(tmp_path / "near", seed=7), write_run(tmp_path / "far", seed=8, shift=1.0)
    text = compare(near, far, f"expected={file}")
    assert "near: agrees in all 3 metrics" in text
    assert "far: disagrees in 3 of 3" in text
    compare(*seeds, f"curve={file}")
    file.write_text("mine")
    with pytest.raises(ValueError, match="was not written by this program"):
        compare(*seeds, f"curve={file}")
    assert file.read_text() == "mine"


def test_a_curve_that_is_shipped_is_found_by_the_experiment(compare, seeds, tmp_path, monkeypatch):
    monkeypatch.setattr(expected_curves, "FOLDER", tmp_path)
    compare(*seeds, f"curve={tmp_path / 'hearts.csv'}")
    text = compare(write_run(tmp_path / "new", seed=9, record=a_record()))
    assert "Expected is the curve of experiment=hearts, which comes with this program." in text
    assert "new: agrees in all 3 metrics" in text


def test_seeds_of_other_options_are_expected_rather_than_the_curve_of_the_experiment(compare, tmp_path, monkeypatch):
    monkeypatch.setattr(expected_curves, "FOLDER", tmp_path)
    record = replace(a_record(), experiment="txt2img")
    seeds = [write_run(tmp_path / f"seed={seed}", seed=seed, record=record) for seed in (1, 2, 3)]
    compare(*seeds, f"curve={tmp_path / 'txt2img.csv'}")
    text = compare(*seeds)
    assert "have measured: they differ in their seeds alone" in text
    assert "comes with this program" not in text
    text = compare(seeds[0])
    assert "Expected is the curve of experiment=txt2img, which comes with this program." in text
    assert re.search(r"seed=1 was not trained as experiment=txt2img is: it differs in .* and \d+ more\.", text)


def test_one_seed_decides_nothing_and_says_so(compare, seeds, tmp_path):
    file = tmp_path / "curve.csv"
    compare(seeds[0], f"curve={file}")
    assert "not judged, since the expected curve is of one seed" in compare(seeds[1], f"expected={file}")
    assert "expected=FILE, or runs of several seeds" in compare(seeds[0])
    assert "agrees" not in compare(seeds[0], other(tmp_path / "b"))


def test_runs_that_still_train_and_have_other_stages_are_compared(compare, seeds, tmp_path):
    half = write_run(tmp_path / "half", seed=6, steps=50, finished=False)
    alone = write_run(tmp_path / "alone", seed=7, stages=("diffusion",))
    text = compare(*seeds, half, alone)
    assert "half: agrees in all 3 metrics" in text
    assert "alone: agrees in all 2 metrics" in text
    assert "| 50 (not finished) |" in (tmp_path / "out" / "compare.md").read_text()


def test_what_cannot_be_compared_is_told_before_anything_is_written(compare, seeds, tmp_path):
    out = tmp_path / "out"
    for words, said in [
        ((), "no run is named"),
        (("nothing",), "there is no run nothing"),
        ((seeds[0], f"expected={tmp_path / 'none.csv'}"), "there is no file expected="),
        ((seeds[0], f"expected={seeds[0] / 'config.yaml'}"), "is no expected curve: its first line"),
        ((seeds[0], other(tmp_path / "b"), f"curve={tmp_path / 'c.csv'}"), "differ in stage.diffusion.optimizer.lr"),
        ((seeds[0], write_run(tmp_path / "again", seed=1), f"curve={tmp_path / 'c.csv'}"), "of different seeds"),
        ((write_run(tmp_path / "half", finished=False), f"curve={tmp_path / 'c.csv'}"), "of finished runs"),
    ]:
        with pytest.raises(ValueError, match=said):
            compare(*words)
        assert not out.exists()
        assert not (tmp_path / "c.csv").exists()
    with pytest.raises(ValueError, match="holds what was not written by this program"):
        compare(seeds[0], f"out={seeds[0]}")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is no expected curve"),
        ("stage,metric,step\na,b,1", "is no expected curve"),
        ("stage,metric,step,seed 0\na,b,1", "row 2 has 3 values and not 4: a,b,1"),
        ("# x\nstage,metric,step,seed 0\na,b,1.5,2", "row 2, a,b,1.5,2: invalid literal"),
        ("stage,metric,step,seed 0\na,b,1,x", "row 2, a,b,1,x: could not convert"),
    ],
)
def test_a_file_that_is_no_expected_curve_is_told(tmp_path, text, said):
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(ValueError, match=said):
        read_expected(tmp_path / "a.csv")


def test_options_are_told_once_by_their_shortest_names():
    one = {
        "lr": 1,
        "paths": {"a": 1},
        "stage": {"x": {"lr": 1, "steps": 2}},
        "logger": {"api_key": "a"},
        "deep": {"rate": {"width": 4}},
    }
    two = {
        "lr": 3,
        "paths": {"a": 2},
        "stage": {"x": {"lr": 3, "steps": 5}},
        "logger": {"api_key": "b"},
        "deep": {"rate": None},
    }
    found = different_options([one, two])
    assert found.pop("lr") == ["1", "3"]
    assert found.pop("stage.x.steps") == ["2", "5"]
    assert found == {"deep.rate.width": ["4", "absent"], "deep.rate": ["absent", "null"]}
    assert different_options([one, one]) == {}


def test_runs_are_alike_where_only_seed_machine_and_places_differ():
    base = {
        "seed": 0,
        "name": "a",
        "data": {"workers": 1},
        "trainer": {"accelerator": "cpu"},
        "stage": {"x": {"lr": 1}},
    }
    same = {
        "seed": 1,
        "name": "b",
        "data": {"workers": 4},
        "trainer": {"accelerator": "gpu"},
        "stage": {"x": {"lr": 1}},
    }
    assert trained_alike(base, same) == []
    assert trained_alike(base, {**same, "stage": {"x": {"lr": 2}}}) == ["stage.x.lr"]


@pytest.mark.parametrize("file", sorted(expected_curves.FOLDER.glob("*.csv")) or [None], ids=str)
def test_every_curve_that_is_shipped_is_one_of_an_experiment(file):
    if file is None:
        pytest.skip("no curve is shipped")
    assert (CONFIGS / "experiment" / f"{file.stem}.yaml").is_file()
    found = read_expected(file)
    assert found.title == file.stem
    assert found.about, "it says where it comes from"
    assert any(metric.startswith(("val/", "eval/")) for _, metric in found.values)
    assert shipped(file.stem) == file


@pytest.mark.e2e
def test_a_browser_shows_the_comparison(compare, seeds, tmp_path, drawn):
    compare(*seeds, other(tmp_path / ("far-" * 20), seed=5, shift=1.0))
    for dark in (False, True):
        for one in look(tmp_path / "out" / "compare.html", tmp_path, dark=dark):
            assert (one.overflow, one.unnamed, one.headless, one.faint, one.ids, one.links) == (0, 0, 0, [], 0, [])
            assert one.texts > 100
