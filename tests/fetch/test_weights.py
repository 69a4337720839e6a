"""Weights come whole, checked, and without code, or not at all; from a server on this machine."""

from dataclasses import replace

import pytest
import torch
from huggingface_hub import constants
from transformers import AutoTokenizer

from ldm.conditioner.huggingface import HuggingFaceConditioner
from ldm.pretrained import published
from ldm.pretrained.published import HubModel
from tests.conditioner.test_conditioner import save_pretrained
from tests.fetch.conftest import CONTENT, NAME


def names(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("wanted", ["cache", "folder"])
def test_a_file_comes_once(hub, file, tmp_path, wanted):
    folder = tmp_path if wanted == "folder" else None
    assert file.cached() is None
    place = file.fetch(folder)
    assert place == (tmp_path / NAME if folder else tmp_path / "torch" / "checkpoints" / NAME)
    assert place.read_bytes() == CONTENT
    assert file.fetch(folder) == place
    if folder is None:
        assert file.cached() == file.load() == place
    assert hub.sent(NAME) == 1
    assert names(tmp_path) == [str(place.relative_to(tmp_path))]


@pytest.mark.parametrize("wanted", ["cache", "folder"])
@pytest.mark.parametrize("fault", ["other content", "cut", "missing", "no server"])
def test_a_file_that_comes_wrong_leaves_nothing(hub, file, tmp_path, wanted, fault):
    if fault == "other content":
        hub.files[NAME] = CONTENT[:-1] + b"!"
    elif fault == "cut":
        hub.cut[NAME] = 1000
    elif fault == "missing":
        del hub.files[NAME]
    else:
        hub.close()
    with pytest.raises(OSError, match="invalid hash value|404|refused|IncompleteRead"):
        file.fetch(tmp_path if wanted == "folder" else None)
    assert names(tmp_path) == []


def test_what_a_killed_process_left_is_removed_and_what_is_no_weights_is_kept(hub, file, tmp_path):
    (tmp_path / f".{NAME}.1234.partial").write_bytes(b"half")
    file.fetch(tmp_path)
    assert names(tmp_path) == [NAME]
    (tmp_path / NAME).write_text("mine")
    with pytest.raises(ValueError, match=f"{NAME} is not what was published under this name: .* remove it"):
        file.fetch(tmp_path)
    assert (tmp_path / NAME).read_text() == "mine"


@pytest.mark.parametrize("wanted", ["cache", "folder"])
def test_a_model_comes_once_without_what_can_hold_code(hub, model, tmp_path, wanted):
    folder = tmp_path / "out" if wanted == "folder" else None
    assert model.cached() is None
    place = model.fetch(folder)
    assert names(place) == ["config.json", "model.safetensors", "vocab.txt"]
    assert (place / "model.safetensors").read_bytes() == CONTENT
    before = len(hub.asked)
    assert model.fetch(folder) == place
    assert len(hub.asked) == before, "nothing is asked of the hub where it is there"
    if folder is None:
        assert model.cached() == place
    else:
        assert [path.name for path in folder.iterdir()] == ["model"]
    assert not hub.sent("pytorch_model.bin")


def test_what_came_before_an_interruption_does_not_come_again(hub, model, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(HubModel, "_damaged", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            model.fetch(tmp_path / "out")
    assert not (tmp_path / "out" / "model").exists(), "it was not yet checked"
    model.fetch(tmp_path / "out")
    assert hub.sent("model.safetensors") == 1


def test_a_broken_connection_goes_on_at_its_byte(hub, model, tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 100_000)
    hub.cut["main/model.safetensors"] = 300_000
    assert (model.fetch(tmp_path) / "model.safetensors").read_bytes() == CONTENT
    ranges = [asked for _, path, asked in hub.asked if path.endswith("model.safetensors") and asked]
    assert ranges == ["bytes=300000-"]


def test_a_model_that_comes_damaged_is_removed(hub, model, tmp_path):
    hub.lie.add("main/model.safetensors")
    with pytest.raises(OSError, match="model.safetensors came damaged, and was removed"):
        model.fetch(tmp_path / "out")
    assert names(tmp_path / "out") == []
    with pytest.raises(OSError, match="model.safetensors in .* is not what the hub has; remove"):
        model.fetch()


def test_a_folder_of_another_content_is_kept(hub, model, tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("mine")
    with pytest.raises(ValueError, match="model is there, but holds no whole model; nothing was changed"):
        model.fetch(tmp_path)
    assert names(tmp_path) == ["model/config.json"]


def test_a_copy_that_is_cut_is_no_model(hub, model, tmp_path):
    """In a folder it is kept and reported; in the cache it is not there."""
    for place in (model.fetch(tmp_path), model.fetch()):
        content = (place / "model.safetensors").read_bytes()
        (place / "model.safetensors").resolve().write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match="holds no whole model"):
        model.fetch(tmp_path)
    assert model.cached() is None


def test_a_model_is_whole_with_what_reads_its_inputs(hub, model):
    model = replace(model, readers=("vocab.txt",))
    (model.fetch() / "vocab.txt").unlink()
    assert model.cached() is None
    assert "vocab.txt" in names(model.fetch())
    assert model.cached() is not None


def test_weights_in_several_files_are_whole_with_all_of_them(hub, model, tmp_path):
    parts = {f"model-{number}-of-2.safetensors": CONTENT for number in (1, 2)}
    del hub.files["main/model.safetensors"]
    index = ", ".join(f'"{name}": "{name}"' for name in parts)
    hub.files["main/model.safetensors.index.json"] = f'{{"weight_map": {{{index}}}}}'.encode()
    hub.files |= {f"main/{name}": content for name, content in parts.items()}
    place = model.fetch()
    assert {name: (place / name).read_bytes() for name in parts} == parts
    assert model.cached() == place
    (place / "model-2-of-2.safetensors").unlink()
    assert model.cached() is None


def test_weights_without_code_may_lie_in_a_version_of_their_own(hub, model, tmp_path, monkeypatch):
    """Where transformers finds them, too, as of openai/clip-vit-base-patch32."""
    monkeypatch.setattr(published, "get_conversion_pr_reference", lambda api, repository: "refs/pr/7")
    hub.files["refs/pr/7/config.json"] = b"{}"
    del hub.files["main/model.safetensors"]
    with pytest.raises(OSError, match="a/b holds no weights without code"):
        model.fetch(tmp_path / "out")
    assert not (tmp_path / "out" / "model").exists()
    hub.files["refs/pr/7/model.safetensors"] = CONTENT
    assert (model.fetch(tmp_path / "other") / "model.safetensors").read_bytes() == CONTENT
    with pytest.raises(OSError, match="not found by its name without internet; bring it into a folder: out=FOLDER"):
        model.fetch()


@pytest.mark.parametrize("wanted", ["cache", "folder"])
def test_without_the_hub_what_was_fetched_is_what_is_loaded(hub, model, tmp_path, monkeypatch, wanted):
    theirs = save_pretrained(tmp_path / "theirs", "t5")
    for name in [name for name in hub.files if name.startswith("main/")]:
        del hub.files[name]
    hub.files |= {f"main/{path.name}": path.read_bytes() for path in (tmp_path / "theirs").iterdir()}
    place = model.fetch(tmp_path / "out" if wanted == "folder" else None)
    hub.close()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    made = HuggingFaceConditioner("a/b" if wanted == "cache" else str(place), width=16, max_tokens=10)
    made.prepare(None)
    ids = AutoTokenizer.from_pretrained(tmp_path / "theirs")("a red cat", return_tensors="pt").input_ids
    with torch.no_grad():
        expected = theirs(ids).last_hidden_state[0]
    torch.testing.assert_close(made({"caption": ["a red cat"]}).tokens[0, : ids.shape[1]], expected)
