"""What `python -m ldm.fetch` does with names, and what it prints; from a server on this machine."""

import pytest

from ldm.cli.command_line import UsageError
from ldm.cli.entry import read_command_line
from ldm.config import compose
from ldm.fetch import program
from ldm.pretrained.catalogue import CATALOGUE
from tests.conftest import forked
from tests.fetch.conftest import CONTENT, NAME


@pytest.fixture
def run(model, file, monkeypatch):
    """The program, with a catalogue of one file and one model."""
    monkeypatch.setattr(program, "CATALOGUE", {"file": file, "model": model})
    return lambda *words: program.main(
        compose("fetch", list(read_command_line("fetch", [*words], "", "names").options))
    )


def test_a_folder_is_filled_and_the_options_that_take_it_are_said(run, hub, tmp_path, capsys):
    out = tmp_path / "my weights"
    run("file", "model", "file", f"out={out}")
    assert (out / NAME).read_bytes() == (out / "model" / "model.safetensors").read_bytes() == CONTENT
    text = capsys.readouterr().out
    assert "1 of 2: file, a network, 0.0 GB, MIT" in text
    assert f"train.py: perceptual=lpips 'perceptual.vgg16={out / NAME}'" in text
    assert f"train.py: conditioner=clip_l 'conditioner.name={out / 'model'}'" in text
    before = len(hub.asked)
    run("model", "file", f"out={out}")
    assert len(hub.asked) == before
    assert "2 of 2: file" in capsys.readouterr().out


def test_the_caches_are_filled_where_no_folder_is_named(run, hub, tmp_path, capsys):
    run("model", "file")
    text = capsys.readouterr().out
    assert f"file is in {tmp_path / 'torch' / 'checkpoints' / NAME}" in text
    assert f"model is in {tmp_path / 'hub'}" in text
    assert "HF_HUB_OFFLINE=1" in text


def test_one_that_fails_is_reported_and_the_others_come(run, hub, tmp_path, capsys):
    hub.files[NAME] = b"something else"
    with pytest.raises(
        OSError,
        match=r"1 of 2 could not be fetched. file: invalid hash value .*If this machine has no internet, type\n"
        rf"  python -m ldm.fetch file out=FOLDER\non one that has, .*\n  python -m ldm.fetch file out={tmp_path}/out$",
    ):
        run("file", "model", f"out={tmp_path / 'out'}")
    assert f"model is in {tmp_path / 'out' / 'model'}" in capsys.readouterr().out
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [".lock", "model"]
    hub.files[NAME] = CONTENT
    run("file", "model", f"out={tmp_path / 'out'}")
    assert hub.sent("model.safetensors") == 1


def test_without_internet_every_name_is_reported(run, hub, tmp_path):
    hub.close()
    with pytest.raises(OSError, match=r"2 of 2 could not be fetched. file: .*refused.*; model: .*refused"):
        run("file", "model")
    assert not (tmp_path / "torch" / "checkpoints" / NAME).exists()


def test_unknown_names_and_foreign_folders_are_refused_before_anything_is_fetched(run, hub, tmp_path):
    with pytest.raises(
        ValueError, match="nothing to fetch by the name 'modell'; did you mean model. choose from file, model"
    ):
        run("file", "modell", f"out={tmp_path / 'out'}")
    assert not (tmp_path / "out").exists()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"holds what was not written by this program \(thesis.txt\)"):
        run("file", f"out={tmp_path / 'out'}")
    assert not hub.asked


def test_without_names_there_is_a_list(run, hub, tmp_path, capsys):
    run()
    rows = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line}
    assert " no " in rows["file"]
    assert not hub.asked
    run("file")
    run(f"out={tmp_path / 'out'}", "model")
    capsys.readouterr()
    for words, there in (([], ["yes", "no"]), ([f"out={tmp_path / 'out'}"], ["no", "yes"])):
        run(*words)
        rows = {line.split()[0]: line.split() for line in capsys.readouterr().out.splitlines() if line}
        assert [rows[name][4] for name in ("file", "model")] == there
        assert rows["model"][3:] == ["MIT", there[1], "a", "network", "conditioner=clip_l"]


def test_words_without_a_name_are_names(run):
    def options(*words):
        return list(read_command_line("fetch", list(words), "", "names").options)

    assert options("a", "out=b", "c") == ["out=b", "names=['a','c']"]
    assert options("names=[a,c]") == ["names=[a,c]"]
    assert compose("fetch", options("a,b", "${c}")).names[0] == "a,b"
    with pytest.raises(UsageError, match="names is given twice, by name and as c; give it once"):
        options("names=[a]", "c")
    assert read_command_line("train", ["a", "seed=1"]).options == ("a", "seed=1")


def test_every_program_that_needs_weights_has_a_command():
    assert {use.program for weights in CATALOGUE.values() for use in weights.uses} == set(program.PROGRAMS)


@pytest.mark.e2e
def test_from_a_command_line():
    text = forked("-m", "ldm.fetch")
    assert all(name in text for name in CATALOGUE)
    assert "choose from lpips, inception" in forked("-m", "ldm.fetch", "lpips", "inceptions", ok=False)
    assert "did you mean out" in forked("-m", "ldm.fetch", "lpips", "outt=a", ok=False)
