"""Folders that programs write into."""

import os
import subprocess
import sys

import pytest

from ldm.files.output_folder import OutputFolder


def ours(path):
    return OutputFolder(path, option="out", is_own=lambda name: name.startswith("ours"))


def test_a_folder_with_files_of_somebody_else_is_refused_and_left_alone(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("a.png", "b.png", "c.png", "d.png", "ours.png"):
        (folder / name).write_text(name)
    (tmp_path / "photos-2").mkdir()
    with pytest.raises(ValueError, match=r"\(a.png, b.png, c.png and 1 more\).*like out=.*photos-3"):
        ours(folder).check()
    with pytest.raises(ValueError, match="not written by this program"), ours(folder).lock():
        pass
    assert sorted(path.name for path in folder.iterdir()) == ["a.png", "b.png", "c.png", "d.png", "ours.png"]


@pytest.mark.parametrize("name", ["file", "file/below"])
def test_a_file_is_no_folder(tmp_path, name):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="is a file"):
        ours(tmp_path / name).check()


def test_empty_and_missing_folders_and_those_of_ours_are_taken(tmp_path):
    for folder in (tmp_path / "new" / "deep", tmp_path):
        ours(folder).check()
    (tmp_path / "ours-1").mkdir()
    (tmp_path / ".DS_Store").write_text("")
    with ours(tmp_path).lock():
        assert (tmp_path / "ours-1").is_dir()


@pytest.mark.e2e
def test_only_one_process_at_a_time_works_in_a_folder(tmp_path):
    other = (
        "import sys; from ldm.files.output_folder import OutputFolder\n"
        "with OutputFolder(sys.argv[1], option='out', is_own=lambda name: True).lock(): print('in')"
    )
    with ours(tmp_path / "out").lock():
        done = subprocess.run(
            [sys.executable, "-c", other, tmp_path / "out"], capture_output=True, text=True, check=False
        )
        assert done.returncode != 0
        assert "another process is writing into" in done.stderr
    done = subprocess.run([sys.executable, "-c", other, tmp_path / "out"], capture_output=True, text=True, check=True)
    assert done.stdout == "in\n"


@pytest.mark.parametrize(("path", "other"), [(".", "new-2"), ("..", r"\.\./new"), ("a/..", "a/../new-2"), ("a", "a-2")])
def test_another_folder_that_can_be_taken_is_proposed(tmp_path, monkeypatch, path, other):
    (tmp_path / "here" / "a").mkdir(parents=True)
    for place in (tmp_path, tmp_path / "here", tmp_path / "here" / "a"):
        (place / "note.txt").write_text("")
    (tmp_path / "here" / "new").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(ValueError, match=f"nothing was changed: choose another folder, like out={other}$"):
        ours(path).check()


@pytest.mark.parametrize("name", ["link", "link/below"])
def test_a_link_to_nothing_is_no_folder(tmp_path, name):
    (tmp_path / "link").symlink_to(tmp_path / "nothing")
    with pytest.raises(ValueError, match="link is a link to what is not there; choose another"):
        ours(tmp_path / name).check()


def test_a_folder_that_must_be_new_is_not_said_to_hold_files_of_others(tmp_path):
    (tmp_path / "a.png").write_text("")
    with pytest.raises(ValueError, match=r"is not empty \(a.png\); nothing was changed"):
        OutputFolder(tmp_path, option="out", is_own=None).check()


@pytest.mark.parametrize("name", ["out", "out/deep/new"])
def test_a_folder_that_may_not_be_written_is_refused_before_it_is_needed(tmp_path, monkeypatch, name):
    (tmp_path / "out").mkdir()
    monkeypatch.setattr(os, "access", lambda place, mode: place != tmp_path / "out")  # a superuser may write everywhere
    with pytest.raises(
        ValueError, match=f"cannot be written, since {tmp_path / 'out'} is read-only for this user; choose"
    ):
        ours(tmp_path / name).check()
