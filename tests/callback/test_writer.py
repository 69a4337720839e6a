import errno
import os
import resource
import tempfile
from pathlib import Path

import pytest
import torch

from ldm.callback.writer import CheckpointWriter


class Evil:
    def __reduce__(self):
        return (print, ("code from a file was run",))


@pytest.fixture
def nowhere(tmp_path, monkeypatch):
    """No temporary folder at all."""
    monkeypatch.setenv("TMPDIR", str(tmp_path / "missing"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))


def test_nothing_is_staged_elsewhere(tmp_path, nowhere):
    path = tmp_path / "checkpoints" / "step-1.ckpt"
    CheckpointWriter().save_checkpoint({"weight": torch.arange(4.0)}, path)
    assert torch.equal(torch.load(path, weights_only=True)["weight"], torch.arange(4.0))
    assert [file.name for file in path.parent.iterdir()] == ["step-1.ckpt"]


def test_a_name_is_given_to_what_is_on_the_disk(tmp_path, monkeypatch):
    """The file is synced before it gets its name, the folder afterwards."""
    path, events = tmp_path / "step-1.ckpt", []
    sync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda handle: events.append(path.exists()) or sync(handle))
    CheckpointWriter().save_checkpoint({}, path)
    assert events == [False, True]


def test_a_full_disk_is_named_and_the_old_file_stays(tmp_path):
    path = tmp_path / "best.ckpt"
    CheckpointWriter().save_checkpoint({"value": 1}, path)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        with pytest.raises(
            OSError, match=f"{path} cannot be written: {os.strerror(errno.EFBIG)}.*the disk of {tmp_path}"
        ):
            CheckpointWriter().save_checkpoint({"weight": torch.zeros(100_000)}, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert CheckpointWriter().load_checkpoint(path) == {"value": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["best.ckpt"]


def test_a_folder_that_cannot_be_is_named(tmp_path):
    (tmp_path / "checkpoints").touch()
    with pytest.raises(OSError, match="step-1.ckpt cannot be written: .*make room or free the folder"):
        CheckpointWriter().save_checkpoint({}, tmp_path / "checkpoints" / "step-1.ckpt")


def test_weights_are_mapped_and_no_code_is_run(tmp_path, capsys):
    path = tmp_path / "step-1.ckpt"
    CheckpointWriter().save_checkpoint({"weight": torch.zeros(100_000)}, path)
    weight = CheckpointWriter().load_checkpoint(path, weights_only=False)["weight"]
    assert str(path) in Path("/proc/self/maps").read_text()
    assert weight.sum() == 0
    for content in (Evil(), b"half"):
        torch.save(content, path) if isinstance(content, Evil) else path.write_bytes(content)
        with pytest.raises(ValueError, match=f"the checkpoint {path} cannot be read: .*the one before it"):
            CheckpointWriter().load_checkpoint(path, weights_only=False)
    assert "code from" not in capsys.readouterr().out
    CheckpointWriter().remove_checkpoint(path)
    CheckpointWriter().remove_checkpoint(path)
    assert not path.exists()
