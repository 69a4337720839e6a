"""Guesses of what is meant by a name of nothing."""

from pathlib import Path

import pytest

from ldm.files.similar import runs_near, similar


@pytest.mark.parametrize(
    ("typed", "meant"),
    [("cls", "runs/cls"), ("elsewhere/short", "runs/short"), ("runs/shart", "runs/short"), ("other/lst", "other/last")],
)
def test_a_run_is_found_by_its_name_alone_or_beside(tmp_path, monkeypatch, typed, meant):
    for run in ("runs/cls", "runs/short", "runs/more", "other/last"):
        (tmp_path / run).mkdir(parents=True)
        (tmp_path / run / "config.yaml").touch()
    monkeypatch.chdir(tmp_path)
    assert similar(Path(typed), runs_near(Path(typed))) == [meant]


def test_runs_of_quite_another_name_are_not_guessed(tmp_path, monkeypatch):
    (tmp_path / "runs" / "short").mkdir(parents=True)
    (tmp_path / "runs" / "short" / "config.yaml").touch()
    monkeypatch.chdir(tmp_path)
    assert runs_near(tmp_path / "nowhere" / "xyz") == []
