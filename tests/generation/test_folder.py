"""The folder of samples: what is ours is replaced, what is anybody else's stays."""

import json

import pytest

from ldm.generation.folder import SampleFolder, image_name


def fill(folder, *names, record=()):
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).write_text(name)
    if record:
        (folder / "samples.jsonl").write_text("".join(json.dumps({"file": name}) + "\n" for name in record))
    return SampleFolder(folder)


def names(folder):
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


@pytest.mark.parametrize(
    ("files", "record", "foreign"),
    [
        (["00000.png", "00001.png"], [], "00000.png, 00001.png"),
        (["grid.png"], [], "grid.png"),
        (["00000.png", "00001.png"], ["00000.png"], "00001.png"),
        (["00000.png", "holiday.png"], ["00000.png", "holiday.png"], "holiday.png"),
        (["holiday.png"], ["holiday.png", "../other.png"], "holiday.png, samples.jsonl"),
    ],
)
def test_a_folder_with_files_that_no_record_lists_is_refused(tmp_path, files, record, foreign):
    folder = fill(tmp_path / "photos", *files, record=record)
    before = names(folder.path)
    with pytest.raises(ValueError, match=rf"not written by this program \({foreign}\); nothing was changed"):
        folder.check()
    with pytest.raises(ValueError, match="choose another folder"), folder.lock():
        pass
    assert names(folder.path) == before
    assert all((folder.path / name).read_text() == name for name in files)


@pytest.mark.parametrize("text", ["", "a table\n", '{"prompt": "mine"}\n', '["file"]\n', '{"file": 3}\n', "\udcff"])
def test_a_record_that_is_none_of_ours_is_a_strangers_file(tmp_path, text):
    (tmp_path / "samples.jsonl").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ValueError, match=r"\(samples.jsonl\)"):
        SampleFolder(tmp_path).check()


def test_what_an_earlier_command_wrote_is_replaced_also_where_it_was_interrupted(tmp_path):
    listed = [image_name(0), image_name(1), image_name(123456)]
    folder = fill(tmp_path / "out", image_name(0), image_name(123456), "grid.png", record=listed)
    with folder.lock():
        folder.begin(['{"file": "00000.png"}'])
        assert names(folder.path) == ["samples.jsonl"]
        assert folder.listed() == {"00000.png", "grid.png", "samples.jsonl"}
    (folder.path / "all").mkdir()
    (folder.path / "multirun.yaml").write_text("")
    folder.check()


def test_an_edited_record_makes_nothing_else_go(tmp_path):
    (tmp_path / "victim.png").write_text("")
    victims = ["../victim.png", str(tmp_path / "victim.png"), "notes.png", "0.png", "00000.png/", ".hidden"]
    folder = fill(tmp_path / "out", "00000.png", ".hidden", record=["00000.png", *victims])
    (folder.path / "00001.png").mkdir()
    with pytest.raises(ValueError, match=r"\(00001.png\)"):
        folder.check()
    (folder.path / "00001.png").rmdir()
    with folder.lock():
        folder.begin(['{"file": "00000.png"}'])
    assert (tmp_path / "victim.png").is_file()
    assert (folder.path / ".hidden").is_file()


@pytest.mark.parametrize("place", ["out/00000.png", "link.png", "out/../out/samples.jsonl"])
def test_nothing_that_is_read_may_lie_where_the_images_go(tmp_path, place):
    folder = fill(tmp_path / "out", "00000.png", record=["00000.png"])
    (tmp_path / "link.png").symlink_to(folder.path / "00000.png")
    with pytest.raises(ValueError, match=r"mask=.* lies in out=.*, whose images are replaced; choose another folder"):
        folder.check([("mask", str(tmp_path / place))])
    folder.check([("mask", str(tmp_path / "elsewhere.png")), ("ckpt", str(tmp_path))])
