"""What is frozen stands once beside the checkpoints of a run, by its hash, and is looked at when the run goes on."""

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import T5Config, T5EncoderModel

from ldm.checkpoint import load, read
from ldm.files.tensors import write_tensors
from ldm.optim.frozen import FROZEN_KEY, FrozenParts, digest_of, frozen_names, store, whole_state


class Net(torch.nn.Module):
    """A frozen part with a buffer, a trained one with a buffer and one frozen weight, and a part without weights."""

    def __init__(self):
        super().__init__()
        self.encoder = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2)).requires_grad_(False)
        self.body = torch.nn.BatchNorm1d(3)
        self.body.bias.requires_grad_(False)
        self.table = torch.nn.Module()
        self.table.register_buffer("odds", torch.ones(2))

    def get_extra_state(self):
        return torch.ones(1)

    def set_extra_state(self, state):
        pass


def test_frozen_is_what_belongs_to_frozen_modules_alone():
    encoder = {f"encoder.0.{name}" for name in ("weight", "bias")} | {
        f"encoder.1.{name}" for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    }
    assert frozen_names(Net()) == encoder | {"body.bias"}
    assert frozen_names(Net().requires_grad_(False)) == set(Net().state_dict()) - {"_extra_state"}
    assert frozen_names(torch.nn.Linear(2, 2)) == set()


def test_a_checkpoint_and_the_file_beside_it_are_the_whole(tmp_path):
    net = Net()
    checkpoint = {"state_dict": net.state_dict()}
    FrozenParts(net).leave_out(checkpoint)
    store(tmp_path, checkpoint)
    assert set(checkpoint["state_dict"]) == {
        *(
            "body.weight",
            "body.running_mean",
            "body.running_var",
            "body.num_batches_tracked",
            "table.odds",
            "_extra_state",
        )
    }
    (beside,) = tmp_path.iterdir()
    assert checkpoint[FROZEN_KEY] == {"file": beside.name, "names": sorted(frozen_names(net))}
    whole = whole_state(tmp_path / "step-1.ckpt", checkpoint)
    assert whole.keys() == net.state_dict().keys()
    assert all(torch.equal(whole[name], tensor) for name, tensor in net.state_dict().items())
    before = beside.stat().st_mtime_ns
    again = {"state_dict": net.state_dict()}
    FrozenParts(net).leave_out(again)
    store(tmp_path, again)
    assert beside.stat().st_mtime_ns == before, "written once"


def test_going_on_with_other_frozen_parts_is_refused():
    net, other = Net(), Net()
    checkpoint = {"state_dict": net.state_dict()}
    FrozenParts(net).leave_out(checkpoint)
    FrozenParts(net).fill_in(checkpoint)
    assert checkpoint["state_dict"].keys() == net.state_dict().keys()
    with pytest.raises(ValueError, match=r"what is frozen .* is not what it was when this run began"):
        FrozenParts(other).fill_in(checkpoint)
    old = {"state_dict": {}}
    FrozenParts(other).fill_in(old)
    assert old == {"state_dict": {}}, "of a version that wrote everything into each checkpoint"


def test_missing_damaged_and_foreign_files_are_distinguished(tmp_path):
    net = Net()
    checkpoint = {"state_dict": net.state_dict()}
    FrozenParts(net).leave_out(checkpoint)
    file = tmp_path / "step-1.ckpt"
    with pytest.raises(ValueError, match="what is frozen lies in frozen-.*, which must lie beside it: copy both"):
        whole_state(file, checkpoint)
    store(tmp_path, checkpoint)
    beside = tmp_path / checkpoint[FROZEN_KEY]["file"]
    tensors = load_file(beside)
    save_file({**tensors, "body.bias": torch.ones(3)}, beside)
    with pytest.raises(ValueError, match="does not hold what its name says"):
        whole_state(file, checkpoint)
    beside.write_bytes(beside.read_bytes()[:50])
    with pytest.raises(ValueError, match="is not a readable safetensors file"):
        whole_state(file, checkpoint)


def test_the_name_tells_names_shapes_types_and_values():
    one = {"a": torch.zeros(2, 3), "b": torch.ones((), dtype=torch.bfloat16)}
    others = [
        {"a": torch.zeros(3, 2), "b": one["b"]},
        {"a": torch.zeros(2, 3), "c": one["b"]},
        {"a": torch.zeros(2, 3), "b": torch.ones(())},
        {"a": torch.zeros(2, 3).index_fill(0, torch.tensor(1), 1e-9), "b": one["b"]},
    ]
    assert len({digest_of(tensors) for tensors in (one, *others)}) == 5
    assert digest_of(dict(reversed(one.items()))) == digest_of(one)


@pytest.mark.e2e
def test_a_step_of_a_run_is_small_and_its_folder_complete(tiny_run, tmp_path):
    """The autoencoder of stage 2 stands once beside its steps; a copy of the folder loads, a step alone says what it lacks."""
    folder = tiny_run / "diffusion" / "checkpoints"
    steps = sorted(folder.glob("step-*.ckpt"))
    assert len(steps) == 3
    (frozen,) = folder.glob("frozen-*.safetensors")
    assert all(name.startswith("model.autoencoder.") for name in load_file(frozen))
    assert "model.autoencoder.shift" in load_file(frozen)
    raw = torch.load(steps[-1], weights_only=True)
    for part in ("state_dict", "current_model_state"):
        assert not [name for name in raw[part] if "autoencoder" in name]
    assert read(steps[-1])[1].keys() == read(tiny_run / "model.safetensors")[1].keys()
    copied = shutil.copytree(folder, tmp_path / "copy")
    assert load(copied / steps[-1].name).sample(prompts=["a red heart"]).isfinite().all()
    alone = shutil.copy(steps[-1], tmp_path)
    with pytest.raises(ValueError, match=f"what is frozen lies in {frozen.name}"):
        load(alone)


def test_tied_weights_are_written_as_often_as_they_have_names(tmp_path):
    """Those of a T5 encoder: the finished model holds them twice, as its state does."""
    encoder = T5EncoderModel(T5Config(vocab_size=30, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2))
    write_tensors(tmp_path / "x.safetensors", encoder.state_dict())
    found = load_file(tmp_path / "x.safetensors")
    assert all(torch.equal(found[name], tensor) for name, tensor in encoder.state_dict().items())
    assert found.keys() == encoder.state_dict().keys()
