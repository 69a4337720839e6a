"""A LoRA begins as the network that it changes, trains its thin matrices alone, and is the same when merged."""

import sys

import pytest
import torch
from torch import nn

from ldm.nn.attention import MapTransformer
from ldm.optim.lora import LoRA, low_rank_changes

WIDTH, TOKENS = 32, 24


def network():
    """Return two transformers over a map, whose last projections are not zero, and an input for them."""
    torch.manual_seed(0)
    net = nn.ModuleList(MapTransformer(WIDTH, 4, TOKENS) for _ in range(2))
    for part in net:
        nn.init.normal_(part.out.weight, std=0.2)
    return net


def output(net):
    generator = torch.Generator().manual_seed(1)
    x, context = torch.randn(2, WIDTH, 4, 4, generator=generator), torch.randn(2, 5, TOKENS, generator=generator)
    for part in net:
        x = part(x, context, None)
    return x


def trained(net, lora):
    """Adapt a network, and give the matrices values that are not zero, as training does."""
    lora.adapt(net)
    for name, weight in net.named_parameters():
        if weight.requires_grad:
            nn.init.normal_(weight, std=0.3, generator=torch.Generator().manual_seed(len(name)))
    return net


def test_an_adapted_network_begins_as_it_was():
    net = network()
    before = output(net)
    LoRA(rank=2).adapt(net)
    assert torch.equal(output(net), before)


def test_thin_matrices_of_attention_are_trained_and_nothing_else():
    net = network()
    LoRA(rank=2).adapt(net)
    names = {name for name, weight in net.named_parameters() if weight.requires_grad}
    layers = [f"attend_{kind}.{layer}" for kind in ("self", "cross") for layer in ("query", "key", "value", "out")]
    assert names == {
        f"{index}.blocks.0.{layer}.lora_{matrix}.default.weight"
        for index in (0, 1)
        for layer in layers
        for matrix in "AB"
    }
    inputs = sum(TOKENS if layer in ("attend_cross.key", "attend_cross.value") else WIDTH for layer in layers)
    count = sum(weight.numel() for weight in net.parameters() if weight.requires_grad)
    assert count == 2 * 2 * (inputs + len(layers) * WIDTH)


@pytest.mark.parametrize(("rank", "alpha"), [(2, 2), (4, 1), (1, 2)])
def test_merged_weights_compute_the_same(rank, alpha):
    plain, lora = network(), LoRA(rank=rank, alpha=alpha)
    before = output(plain)
    adapted = trained(network(), lora)
    merged = lora.merge(adapted.state_dict())
    assert {name: tensor.shape for name, tensor in merged.items()} == {
        name: tensor.shape for name, tensor in plain.state_dict().items()
    }
    plain.load_state_dict(merged)
    assert (output(plain) - before).std() > 0.05
    torch.testing.assert_close(output(plain), output(adapted), atol=1e-5, rtol=1e-5)


def test_the_change_grows_with_alpha_and_has_the_rank():
    weights = trained(network(), LoRA(rank=3, alpha=3)).state_dict()
    one, two = (LoRA(rank=3, alpha=alpha).merge(weights) for alpha in (3, 6))
    assert len(low_rank_changes(weights)) == 16
    for layer in low_rank_changes(weights):
        base = weights[f"{layer}.base_layer.weight"]
        change = one[f"{layer}.weight"] - base
        torch.testing.assert_close(two[f"{layer}.weight"] - base, 2 * change, atol=1e-6, rtol=1e-5)
        assert torch.linalg.matrix_rank(change, tol=1e-4) == 3


def test_half_precision_stays():
    weights = {name: tensor.half() for name, tensor in trained(network(), LoRA(rank=2)).state_dict().items()}
    assert {tensor.dtype for tensor in LoRA(rank=2).merge(weights).values()} == {torch.float16}


@pytest.mark.parametrize("options", [{"rank": 0}, {"rank": 1.5}, {"alpha": 0}, {"dropout": 1.0}, {"dropout": -0.1}])
def test_values_outside_of_their_range_are_refused(options):
    (name,) = options
    with pytest.raises(ValueError, match=rf"adapter\.{name}"):
        LoRA(**options)


def test_a_network_without_attention_is_refused():
    with pytest.raises(ValueError, match="none"):
        LoRA().adapt(nn.Sequential(nn.Linear(2, 2)))


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install .*lora"):
        LoRA().adapt(network())
