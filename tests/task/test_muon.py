import copy
from functools import partial

import pytest
import torch

from ldm.config import build, compose, resolved
from ldm.optim.muon import MuonAdamW
from ldm.optim.optimization import Trained
from ldm.optim.scheduler import ConstantWithWarmup, attach

pytestmark = pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch has no Muon")


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embed = torch.nn.Embedding(10, 8)
        self.linear = torch.nn.Linear(8, 6)
        self.conv = torch.nn.Conv2d(1, 2, 3)

    def loss(self, x):
        return (self.linear(self.embed(x)).square().mean() - 1) ** 2 + self.conv(torch.ones(1, 1, 5, 5)).square().mean()


def steps(net, optimizer, count, seed=1):
    generator = torch.Generator().manual_seed(seed)
    for _ in range(count):
        optimizer.zero_grad()
        net.loss(torch.randint(0, 10, (4,), generator=generator)).backward()
        optimizer.step()


def test_matrices_step_by_muon_and_the_rest_by_adamw():
    ours, theirs = Net(), Net()
    steps(ours, MuonAdamW(Trained(ours), lr=1e-2), 5)
    muon = torch.optim.Muon([theirs.linear.weight], lr=1e-2, weight_decay=0.01, adjust_lr_fn="match_rms_adamw")
    rest = [part for name, part in theirs.named_parameters() if name != "linear.weight"]
    adamw = torch.optim.AdamW(rest, lr=1e-2, weight_decay=0.01)
    generator = torch.Generator().manual_seed(1)
    for _ in range(5):
        muon.zero_grad()
        adamw.zero_grad()
        theirs.loss(torch.randint(0, 10, (4,), generator=generator)).backward()
        muon.step()
        adamw.step()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_learning_rates_reach_both_and_a_continued_run_steps_as_before():
    def begin(net):
        optimizer = MuonAdamW(Trained(net), lr=1e-2)
        return optimizer, attach(partial(ConstantWithWarmup, warmup_steps=10), optimizer, 100)

    net = Net()
    optimizer, schedule = begin(net)
    for _ in range(4):
        steps(net, optimizer, 1)
        schedule.step()
    assert {group["lr"] for part in optimizer.parts for group in part.param_groups} == {1e-2 * 5 / 10}
    weights, states = copy.deepcopy(net.state_dict()), copy.deepcopy((optimizer.state_dict(), schedule.state_dict()))
    again = Net()
    other, other_schedule = begin(again)
    again.load_state_dict(weights)
    other.load_state_dict(states[0])
    other_schedule.load_state_dict(states[1])
    for model, its, rate in ((net, optimizer, schedule), (again, other, other_schedule)):
        for _ in range(3):
            steps(model, its, 1)
            rate.step()
    for a, b in zip(net.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)
    assert {group["lr"] for group in other.param_groups} == {1e-2 * 8 / 10}


def test_hidden_matrices_are_muons_and_tables_adamws():
    """Whatever they are called: a residual block's projection of the time is called as a table of tokens is."""
    config = resolved(compose("train", ["experiment=txt2img", "debug=tiny"]))
    model = torch.nn.ModuleDict({part: build(config[part]) for part in ("conditioner", "backbone")})
    model.backbone.conv_in.requires_grad_(False)
    muon, adamw = (
        {name for group in part.param_groups for name in group["param_names"]}
        for part in MuonAdamW(Trained(model)).parts
    )
    shapes = {name: part.ndim for name, part in model.named_parameters() if part.requires_grad}
    assert muon | adamw == shapes.keys()
    tables = ("embed.weight", "position")
    assert {name for name in adamw if shapes[name] == 2} == {f"conditioner.network.{name}" for name in tables}
    assert "backbone.middle.0.residual.embed.weight" in muon


def test_without_a_matrix_it_is_the_wrong_optimiser():
    with pytest.raises(ValueError, match="Muon found no linear layer"):
        MuonAdamW(Trained(torch.nn.Conv2d(1, 2, 3)))
