"""Activation checkpointing: the same losses and gradients, of less that is kept; and a run with it."""

import copy
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from ldm.batch import Condition
from ldm.callback.activation_checkpointing import (
    ActivationCheckpointing,
    checkpoint_activations,
    keep_activations,
)
from ldm.conditioner.transformer import TransformerEncoder
from ldm.config import build, resolved
from ldm.plan.count import SavedBytes
from tests import configs
from tests.conftest import forked, scramble


def noise(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def unet(**options):
    torch.manual_seed(0)
    network = build({**resolved(configs.composed("train", "experiment=txt2img", "debug=tiny"))["backbone"], **options})
    return scramble(network)


def text_encoder():
    torch.manual_seed(0)
    return scramble(TransformerEncoder(16, 7, width=32, depth=2, heads=2, head_width=16))


def predict(network):
    condition = Condition(noise(2, 7, 32).requires_grad_(), torch.ones(2, 7, dtype=torch.bool))
    value = network(noise(2, network.conv_in.in_channels, 8, 8), torch.tensor([0.2, 0.7]), condition)
    return value, [condition.tokens]


def encode(network):
    return network(torch.tensor([[1, 2, 3], [4, 5, 6]]), None), []


def reconstruct(network):
    return network.decode(network.encode(noise(2, 3, 32, 32)).mean), []


def autoencoder():
    torch.manual_seed(0)
    config = resolved(configs.composed("train", "experiment=txt2img", "debug=tiny"))["autoencoder"]["network"]
    return scramble(build({**config, "middle_attention": True, "attention_levels": [0]}))


def gradients(network, compute):
    """Return a value, its gradient at one weight, taken first, and those at all, and the bytes that were kept meanwhile."""
    torch.manual_seed(5)  # of drop-out
    network.zero_grad()
    saved = SavedBytes(network.parameters())
    with saved.counting():
        value, others = compute(network)
        kept = saved.live
        (once,) = torch.autograd.grad(value.abs().mean(), next(network.parameters()), retain_graph=True)
        value.square().mean().backward()
    found = [value.detach(), once, *(weight.grad.clone() for weight in (*network.parameters(), *others))]
    return found, kept


@pytest.mark.parametrize(
    ("make", "compute"),
    [
        (unet, predict),
        (lambda: unet(dropout=0.3, residual_resampling=True), predict),
        (autoencoder, reconstruct),
        (text_encoder, encode),
    ],
)
def test_values_and_gradients_are_the_same_bit_by_bit_and_less_is_kept(make, compute):
    network = make()
    (expected, much), blocks = gradients(network, compute), checkpoint_activations(network)
    found, little = gradients(network, compute)
    assert blocks > 1
    assert all(map(torch.equal, found, expected))
    assert little < 0.6 * much
    keep_activations(network)
    again, kept = gradients(network, compute)
    assert kept == much
    assert all(map(torch.equal, again, expected))


def test_frozen_networks_stay_as_they_are_and_names_of_weights_do_too():
    network = autoencoder()
    names = list(network.state_dict())
    network.encoder.requires_grad_(False)
    blocks = checkpoint_activations(network)
    assert list(network.state_dict()) == names
    assert not any("forward" in vars(part) for part in network.encoder.modules())
    assert blocks == sum("forward" in vars(part) for part in network.decoder.modules()) > 0


def test_a_copy_computes_with_its_own_weights():
    network = unet()
    checkpoint_activations(network)
    other = copy.deepcopy(network)
    with torch.no_grad():
        before = predict(network)[0]
        for weight in other.parameters():
            weight.zero_()
        assert not predict(other)[0].any()
        assert torch.equal(predict(network)[0], before)


@pytest.mark.slow
def test_a_network_is_one_graph_with_it():
    network = unet()
    expected, _ = gradients(network, predict)
    checkpoint_activations(network)
    with torch._functorch.config.patch(donated_buffer=False):
        network.compile(backend="aot_eager", fullgraph=True)
        found, _ = gradients(network, predict)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


def test_blocks_are_changed_once_and_only_where_that_is_asked_for():
    trainer, network = SimpleNamespace(is_global_zero=True), unet()
    ActivationCheckpointing(False).setup(trainer, network, "fit")
    assert not any("forward" in vars(part) for part in network.modules())
    callback = ActivationCheckpointing(True)
    callback.setup(trainer, network, "fit")
    forwards = [vars(part).get("forward") for part in network.modules()]
    callback.setup(trainer, network, "validate")
    assert forwards == [vars(part).get("forward") for part in network.modules()]
    with pytest.raises(ValueError, match="activation_checkpointing=some cannot be"):
        ActivationCheckpointing("some")


@pytest.mark.e2e
def test_a_run_with_it_ends_with_the_same_weights(tiny_run, places):
    options = ["train.py", "experiment=txt2img", "debug=tiny", "trainer=cpu", *places, "callbacks=none"]
    runs = tiny_run.parent
    text = forked(*options, "name=recomputed", "activation_checkpointing=true")
    assert text.count("computes their activations again in the backward pass") == 2, "in both stages"
    forked(*options, "name=kept")
    for name in ("autoencoder.safetensors", "model.safetensors"):
        files = [load_file(runs / run / name) for run in ("recomputed", "kept")]
        assert files[0].keys() == files[1].keys()
        assert all(torch.equal(files[0][key], files[1][key]) for key in files[0])
