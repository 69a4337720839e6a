import json

import pytest

from ldm.files.whole import check_own_json, set_aside, write_whole


def test_a_file_appears_whole_in_a_folder_that_is_made(tmp_path):
    file = tmp_path / "a" / "b.txt"
    write_whole(file, "ы\n")
    assert file.read_text(encoding="utf-8") == "ы\n"
    assert [path.name for path in file.parent.iterdir()] == ["b.txt"]


def test_what_cannot_be_written_leaves_the_file_as_it_was(tmp_path):
    file = tmp_path / "b.txt"
    write_whole(file, "before")
    with pytest.raises(UnicodeEncodeError):
        write_whole(file, "\ud800")
    assert file.read_text() == "before"
    assert [path.name for path in tmp_path.iterdir()] == ["b.txt"]


@pytest.mark.parametrize("content", ["no JSON", "[1]", "3", json.dumps({"kind": "another"})])
def test_somebody_elses_file_is_refused(tmp_path, content):
    file = tmp_path / "out.json"
    check_own_json(file, lambda found: found.get("kind") == "mine", example="plan.json")
    file.write_text(content)
    with pytest.raises(ValueError, match="was not written by this program; choose another file, like out=plan.json"):
        check_own_json(file, lambda found: found.get("kind") == "mine", example="plan.json")
    file.write_text(json.dumps({"kind": "mine"}))
    check_own_json(file, lambda found: found.get("kind") == "mine", example="plan.json")


def test_what_is_set_aside_replaces_nothing(tmp_path):
    """Also where somebody has taken one of the kept files away."""
    for name in ("metrics.csv", "metrics-2.csv"):
        (tmp_path / name).write_text(name)
    set_aside(tmp_path / "metrics.csv")
    (tmp_path / "metrics.csv").write_text("later")
    set_aside(tmp_path / "metrics.csv")
    set_aside(tmp_path / "metrics.csv")
    found = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert found == {"metrics-1.csv": "metrics.csv", "metrics-2.csv": "metrics-2.csv", "metrics-3.csv": "later"}
