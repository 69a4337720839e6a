"""The end of a sweep: its table and the next command."""

import json

import pytest

from ldm.compare.sweep import beside, print_report, sweep_report
from tests.report.folders import write_run


@pytest.fixture
def runs(tmp_path):
    """Four runs of a sweep, of which the third is not finished."""
    folder = tmp_path / "my sweep"
    runs = [write_run(folder / f"seed={seed}", seed=seed, finished=seed != 3, pictures=0) for seed in range(1, 5)]
    for run, accuracy in ((runs[0], 0.5), (runs[1], float("nan")), (runs[3], 0.75)):
        file = run / "diffusion" / "results.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), "eval/accuracy": accuracy}))
    return runs


@pytest.mark.parametrize(
    ("direction", "order"), [("maximize", "4123"), ("minimize", "1423"), (None, "1234")], ids=["max", "min", "none"]
)
def test_runs_are_listed_with_the_score_that_the_sweep_optimises_the_best_first(runs, direction, order):
    table, _ = sweep_report(runs, "accuracy", direction)
    assert table.head == ["run", "accuracy", ""]
    assert [row[0] for row in table.rows] == [f"seed={seed}" for seed in order]
    cells = {row[0]: row[1:] for row in table.rows}
    assert cells["seed=4"] == ["0.75", ""]
    assert cells["seed=3"] == ["", "not finished"]


def test_without_such_a_score_all_of_the_last_stage_are_listed(runs):
    table, _ = sweep_report([runs[0], runs[3]], None, None)
    assert table.head == ["run", "val/loss", "eval/accuracy"], "no part of another, and no column for what all runs are"
    assert [row[2] for row in table.rows] == ["0.5", "0.75"]


def test_the_next_command_names_all_runs_of_a_folder_by_a_pattern_and_some_by_their_names(runs):
    folder = runs[0].parent
    assert sweep_report(runs, None, None)[1] == f"python -m ldm.compare '{folder}'/*"
    assert sweep_report(runs[:2], None, None)[1] == f"python -m ldm.compare '{runs[0]}' '{runs[1]}'"
    assert set(beside(folder)) == set(runs)


def test_of_less_than_two_runs_nothing_is_said(runs, tmp_path, capsys):
    print_report([runs[0], tmp_path / "failed before its first step"], None, None)
    assert capsys.readouterr().out == ""
    print_report(runs, "accuracy", "maximize")
    text = capsys.readouterr().out
    assert text.index("seed=4") < text.index("seed=1") < text.index("next: python -m ldm.compare")
