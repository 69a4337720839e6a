"""Messages about a full disk: they say which one it is, and what to do."""

import errno
import os
from collections import namedtuple
from types import SimpleNamespace

import pytest
import torch
from omegaconf import OmegaConf
from safetensors import SafetensorError

from ldm.cli import entry
from ldm.files import disk, tensors
from ldm.files.disk import full_disk

Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def small(tmp_path, monkeypatch):
    """A folder whose disk is nearly full; all others have room."""
    folder = tmp_path / "small"
    folder.mkdir()
    free = {folder: 30_000}
    monkeypatch.setattr(
        disk, "shutil", SimpleNamespace(disk_usage=lambda place: Usage(1e9, 0, free.get(place, 500_000_000)))
    )
    return folder


def test_the_disk_with_the_least_room_is_named(small, tmp_path):
    error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    places = {"paths.data_dir": str(tmp_path / "data"), "out": str(small / "a" / "b")}
    message = full_disk(error, places)
    assert message.startswith(
        f"No space left on device: the disk of {small} (out={small / 'a' / 'b'}) has 0.0 MB left; make room"
    )


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "full", "a file"), OSError(errno.EACCES, "no"), ValueError("x")]
)
def test_other_errors_and_those_that_name_a_file_stay_as_they_are(error):
    assert full_disk(error, {}) is None


def test_every_program_says_which_disk_is_full(small, capsys):
    def run(config):
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    config = OmegaConf.create({"out": str(small / "x"), "size": 3, "cache": "${out}/cache", "packages": ["ldm"]})
    with pytest.raises(SystemExit):
        entry._with_messages("train", run, {}, ())(config)
    assert f"the disk of {small} (out={small / 'x'})" in capsys.readouterr().err


def test_tensors_that_find_no_room_are_an_error_that_names_the_file(tmp_path, monkeypatch):
    (tmp_path / "a.safetensors").write_text("before")

    def no_room(*given):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(tensors, "save_file", no_room)
    with pytest.raises(
        OSError, match=rf"the file {tmp_path}/a.safetensors cannot be written: .*No space left.*; make room"
    ):
        tensors.write_tensors(tmp_path / "a.safetensors", {"x": torch.zeros(1)})
    assert [file.name for file in tmp_path.iterdir()] == ["a.safetensors"]
    assert (tmp_path / "a.safetensors").read_text() == "before"
