"""`python -m ldm.interop.load`, and files in which old programs have pickled objects beside the weights."""

import argparse
import collections
import sys
import types

import pytest
import torch

from ldm.interop.pickled import read_pickled
from tests.conftest import forked
from tests.interop import checkpoints as made


class Loud:
    """An object whose reading would run code, if it were read as pickles are."""

    def __init__(self, value=0):
        self.value = value

    def __reduce__(self):
        return (print, ("code from a file was run",))


@pytest.fixture
def gone():
    """Return a class of a module that is there when a file is written, and not any more when it is read."""
    module = types.ModuleType("lightning_of_old")
    kind = type(
        "ModelCheckpoint", (), {"__module__": "lightning_of_old", "__init__": lambda self: setattr(self, "best", 1)}
    )
    module.ModelCheckpoint = kind
    sys.modules["lightning_of_old"] = module
    yield kind
    sys.modules.pop("lightning_of_old", None)


@pytest.mark.parametrize("zipped", [True, False], ids=["today", "before-1.6"])
def test_objects_of_others_stop_nothing_and_run_nothing(tmp_path, gone, capsys, zipped):
    weights = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(2, dtype=torch.float16)}
    content = {
        "state_dict": collections.OrderedDict(weights),
        "callbacks": {gone: {"best_model_score": torch.tensor(1.0)}},
        "checkpoint": gone(),
        "hyper_parameters": argparse.Namespace(lr=1e-4),
        "loud": Loud(),
    }
    torch.save(content, tmp_path / "old.ckpt", _use_new_zipfile_serialization=zipped)
    sys.modules.pop("lightning_of_old")
    found = read_pickled(tmp_path / "old.ckpt")["state_dict"]
    assert all(torch.equal(found[name], tensor) for name, tensor in weights.items())
    assert "code from a file" not in capsys.readouterr().out


def test_what_is_no_file_of_torch_is_an_error(tmp_path):
    (tmp_path / "a.ckpt").write_text("hello")
    torch.save([1, 2], tmp_path / "list.ckpt")
    (tmp_path / "cut.ckpt").write_bytes((tmp_path / "list.ckpt").read_bytes()[:200])
    for name, message in (
        ("a", "loaded safely"),
        ("cut", "loaded safely"),
        ("list", "holds list, not weights by name"),
    ):
        with pytest.raises(ValueError, match=message):
            read_pickled(tmp_path / f"{name}.ckpt")


@pytest.mark.e2e
def test_the_program_writes_one_file_and_says_what_was_left_out(tmp_path):
    tensors = made.tensors_of(made.whole(made.bert(64, 2, vocabulary=300), context_width=64))
    source = made.save(
        tmp_path / "model.ckpt", {**tensors, **made.bookkeeping(), **made.averages(tensors)}, loud=Loud()
    )
    made.write_yaml(tmp_path / "model.yaml")
    tokenizer, out = made.tokenizer(tmp_path / "tokenizer"), tmp_path / "ours.safetensors"
    command = ["-m", "ldm.interop.load", str(source), f"tokenizer={tokenizer}"]
    text = forked(*command, f"out={out}")
    assert "LatentDiffusion in the layout of CompVis" in text
    assert "what tensors do not tell is as in experiment=txt2img_1p4b" in text
    assert "left out: 2 tensors, the language model's head takes no part in making images" in text
    assert "its average was taken" in text
    assert "code from a file" not in text
    assert f"next: python sample.py ckpt={out}" in text
    assert "grid.png" in forked(
        "sample.py", f"ckpt={out}", "prompt=a red heart", "sampler.steps=2", f"out={tmp_path / 'out'}"
    )
    before = out.read_bytes()
    assert f"error: out={out} exists already" in forked(*command, f"out={out}", ok=False)
    assert out.read_bytes() == before
    assert "as=nothing is no experiment" in forked(
        *command, "as=nothing", f"out={tmp_path / 'b.safetensors'}", ok=False
    )
    assert not (tmp_path / "b.safetensors").exists()
    text = forked(
        "-m", "ldm.interop.load", str(tmp_path / "ours.safetensors"), f"out={tmp_path / 'c.safetensors'}", ok=False
    )
    assert "is a checkpoint of this project already" in text
