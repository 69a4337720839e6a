"""`python -m ldm.compare`: tables, verdicts, pictures and expected curves of runs."""

import json
import math
import re
from dataclasses import replace
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from PIL import Image

from ldm.cli.entry import read_command_line
from ldm.compare import expected as expected_curves
from ldm.compare import program
from ldm.compare.agreement import Expectation
from ldm.compare.drawing import GREY, legend_of, panels_of
from ldm.compare.expected import of_runs, read_expected, shipped
from ldm.compare.options import different_options, trained_alike
from ldm.compare.table import option_table
from ldm.config import CONFIGS, compose
from ldm.report.charts import chart
from ldm.report.run_folder import read_run
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
    config = {**CONFIG, "data": {**CONFIG.get("data", {}), "source": {"_target_": "mine.Photos"}}}
    text = compare(write_run(tmp_path / "photos", seed=9, config=config, record=a_record()))
    assert "There is no expected curve of this experiment on these data" in text


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


def test_what_cannot_be_compared_is_reported_before_anything_is_written(compare, seeds, tmp_path):
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
def test_a_file_that_is_no_expected_curve_is_reported(tmp_path, text, said):
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(ValueError, match=said):
        read_expected(tmp_path / "a.csv")


def test_options_are_named_once_by_their_shortest_names():
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


@pytest.mark.parametrize("file", sorted(expected_curves.FOLDER.glob("*")), ids=lambda file: file.name)
def test_every_curve_that_is_shipped_is_one_of_an_experiment(file):
    assert file.suffix == ".csv"
    assert (CONFIGS / "experiment" / f"{file.stem}.yaml").is_file()
    found = read_expected(file)
    assert found.title == file.stem
    assert found.about, "it says where it comes from"
    assert found.seeds >= 3
    assert any(metric.startswith(("val/", "eval/")) for _, metric in found.values)
    for (stage, metric), values in found.values.items():
        last = values[max(values)]
        assert len(last) == found.seeds, (stage, metric)
        assert all(map(math.isfinite, last)), (stage, metric)
    ends = {stage: set() for stage, _ in found.values}
    for (stage, metric), values in found.values.items():
        ends[stage] |= {max(values)} if metric.startswith(("val/", "eval/")) else set()
    assert all(len(steps) == 1 for steps in ends.values()), "validation ends where the stage does"
    assert shipped(file.stem) == file


def test_files_of_others_with_the_names_of_ours_stay(compare, seeds, tmp_path, drawn, monkeypatch):
    """Docs have a compare.md, and anybody may; it is reported before anything is computed."""
    out = tmp_path / "out"
    compare(*seeds)
    assert sorted(path.name for path in out.iterdir()) == [".lock", "compare.html", "compare.md", "compare.png"]
    compare(*seeds)
    monkeypatch.setattr(
        program, "find_expected", lambda *given: pytest.fail("computed before the folder was looked at")
    )
    picture = out / "compare.png"
    for file, content in [
        (out / "compare.md", b"# Compare and report runs\n"),
        (out / "compare.html", b"<!DOCTYPE html><p>mine</p>"),
        (picture, b"no picture"),
    ]:
        ours = file.read_bytes()
        file.write_bytes(content)
        with pytest.raises(ValueError, match=rf"holds what was not written by this program \({file.name}\)"):
            compare(*seeds)
        assert file.read_bytes() == content
        file.write_bytes(ours)
    with Image.open(picture) as opened:
        plain = opened.convert("RGB")
    plain.save(picture)
    with pytest.raises(ValueError, match=r"\(compare.png\)"):
        compare(*seeds)
    with pytest.raises(ValueError, match="holds what was not written by this program"):
        compare(*seeds, f"out={Path(__file__).parents[2] / 'docs'}")


def test_files_beside_the_runs_of_a_sweep_are_left_out(compare, seeds, tmp_path):
    for name in ("multirun.yaml", "optimization_results.yaml", "study.db"):
        (tmp_path / name).write_text("a: 1")
    assert "seed=3: agrees in all" in compare(*sorted(tmp_path.glob("*")))
    (tmp_path / "notes.txt").write_text("a")
    with pytest.raises(ValueError, match=r"notes.txt is a file; give the folder of the run"):
        compare(*seeds, tmp_path / "notes.txt")
    with pytest.raises(ValueError, match="no run is named"):
        compare(tmp_path / "multirun.yaml")


def test_a_curve_of_other_options_and_steps_is_reported(compare, seeds, tmp_path):
    file = tmp_path / "curve.csv"
    compare(*seeds, f"curve={file}")
    options = read_expected(file).options
    assert options["stage.diffusion.trainer.max_steps"] == 100
    assert not {"paths.output_dir", "name"} & options.keys()
    config = json.loads(json.dumps(CONFIG))
    config["stage"]["diffusion"]["trainer"]["max_steps"] = 50
    config["stage"]["autoencoder"]["trainer"]["max_steps"] = 50
    short = write_run(tmp_path / "short", config=config, seed=9, steps=50)
    text = compare(short, f"expected={file}")
    said = "short was not trained as the runs of the expected curve were: it differs in stage.autoencoder.trainer.max_steps"
    assert said in text
    row = re.search(
        r"^\| val/loss \| (.*?) \| (.*?) ± .*\|$", (tmp_path / "out" / "compare.md").read_text(), re.MULTILINE
    )
    assert float(row[2]) == pytest.approx(float(row[1]), abs=0.05), "at the step of the run"
    assert "was not trained as the runs" not in compare(write_run(tmp_path / "same", seed=7), f"expected={file}")
    both = (tmp_path / "out" / "compare.md").read_text()
    assert "expected ± spread" in both
    compare(short, seeds[0], f"expected={file}")
    assert "expected ± spread" not in (tmp_path / "out" / "compare.md").read_text(), "a column without a value"
    assert " ± " not in re.search(r"^\| val/loss .*$", (tmp_path / "out" / "compare.md").read_text(), re.MULTILINE)[0]
    metrics = short / "diffusion" / "logs" / "metrics.csv"
    for logs in (metrics, short / "autoencoder" / "logs" / "metrics.csv"):
        rows = [line.split(",") for line in logs.read_text().splitlines()]
        place = rows[0].index("step")
        rows[1:] = [[*row[:place], str(int(row[place]) - 1), *row[place + 1 :]] for row in rows[1:]]
        logs.write_text("\n".join(map(",".join, rows)) + "\n")
    text = compare(short, f"expected={file}")
    reason = "it was validated at other steps (9, 19, ..., 49) than the expected curve (10, 20, ..., 100)."
    assert f"short: not judged, since {reason}" in text
    metrics.write_text(metrics.read_text().replace("val/", "eval/other_"))
    (short / "autoencoder" / "logs" / "metrics.csv").unlink()
    assert "not judged, since validation measures nothing that the expected curve has" in compare(
        short, f"expected={file}"
    )
    file.write_text(re.sub("# options: .*", "# options: [", file.read_text()))
    with pytest.raises(ValueError, match="its line of options cannot be read"):
        compare(short, f"expected={file}")


def test_many_runs_with_long_names_have_numbers(compare, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    runs = [write_run(tmp_path / f"a-run-with-a-long-name-{seed}", seed=seed) for seed in range(9)]
    text = compare(*runs)
    assert "Runs\n[1] a-run-with-a-long-name-0\n[2] a-run" in text
    tables = [line for line in text.splitlines() if line[:1] in "┏┃┡│└"]
    assert max(map(len, tables)) <= 80
    heads = [line for line in tables if line.startswith("┃ diffusion")]
    assert re.findall(r"\[\d\]", "".join(heads)) == [f"[{place}]" for place in range(1, 10)]
    assert "…" not in text
    written = (tmp_path / "out" / "compare.md").read_text()
    assert "- [9] a-run-with-a-long-name-8\n" in written
    assert "| diffusion | [1] | [2] |" in written
    monkeypatch.setenv("COLUMNS", "150")
    assert "Runs\n" not in compare(*runs[:2])


def test_a_run_has_one_colour_in_all_panels_and_grey_is_what_is_expected(seeds, tmp_path):
    alone = write_run(tmp_path / "alone", seed=7, stages=("diffusion",))
    more = [write_run(tmp_path / f"more-{seed}", seed=seed) for seed in range(20, 30)]
    runs = [read_run(folder) for folder in (seeds[0], alone, *more)]
    panels = panels_of(runs, of_runs("a", [read_run(folder) for folder in seeds]))
    legend = legend_of(panels)
    assert [entry.label for entry in legend][-2:] == ["expected", "agrees within"]
    of_run = [entry for entry in legend if entry.kind == "run"]
    assert len({(entry.color, entry.line) for entry in of_run}) == len(runs)
    assert GREY not in {entry.color for entry in of_run}
    for panel in panels:
        axes = Figure().add_subplot()
        panel.draw(axes)
        assert axes.get_legend() is None
        colors = [line.get_color() for line in axes.lines if line.get_color() != GREY and len(line.get_xdata())]
        assert colors == [entry.color for name, entry in panel.styles.items() if name in panel.curves]
    log = next(panel for panel in panels if panel.metric == "train/loss")
    steep = replace(log, curves={name: [(1, 100.0), (2, 6.0)] for name in log.curves})
    svg = chart(steep.draw, "a", key="k", legend=False)
    assert "mathdefault" not in svg
    assert "$" not in svg


@pytest.mark.parametrize("metric", ["val/psnr", "train/loss"])
def test_the_curves_fill_a_third_of_a_panel_however_wide_the_band_is(seeds, metric):
    runs = [read_run(folder) for folder in seeds]
    panel = next(panel for panel in panels_of(runs, of_runs("a", runs)) if panel.metric == metric)

    def limits(band):
        axes = Figure().add_subplot()
        replace(panel, band=band).draw(axes)
        return axes.get_ylim()

    low, high = limits({})
    assert limits({step: Expectation(value, 1e6, 8) for step, value in panel.mean}) == pytest.approx(
        (2 * low - high, 2 * high - low)
    )
    assert limits({step: Expectation(value, (high - low) / 1e6, 10**9) for step, value in panel.mean})[1] < 1.1 * high


@pytest.mark.e2e
def test_a_browser_shows_the_comparison(compare, seeds, tmp_path, drawn):
    compare(*seeds, other(tmp_path / ("far-" * 20), seed=5, shift=1.0))
    for dark in (False, True):
        for one in look(tmp_path / "out" / "compare.html", tmp_path, dark=dark):
            assert (one.overflow, one.unnamed, one.headless, one.faint, one.ids, one.links) == (0, 0, 0, [], 0, [])
            assert one.texts > 100


def test_options_of_a_stage_that_one_run_was_given_are_no_difference(tmp_path):
    config = json.loads(json.dumps(CONFIG))
    config["stage"]["autoencoder"]["trainer"]["max_steps"] = 999
    config["stage"]["diffusion"]["optimizer"]["lr"] = 0.1
    whole = read_run(write_run(tmp_path / "whole", record=a_record()))
    given = read_run(write_run(tmp_path / "given", config=config, record=a_record(), stages=("diffusion",)))
    assert [row[0] for row in option_table([whole, given]).rows] == ["stage.diffusion.optimizer.lr"]
    both = read_run(write_run(tmp_path / "both", config=config, record=a_record()))
    assert "stage.autoencoder.trainer.max_steps" in [row[0] for row in option_table([whole, both]).rows]
