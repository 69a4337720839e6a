"""torch.compile of networks: which they are, that each is one graph, and that a run is the same with it."""

import shutil
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from ldm.autoencoder.discriminator import PatchDiscriminator
from ldm.batch import Condition
from ldm.callback.compile import Compile, networks_of
from ldm.callback.curves import read_metrics
from ldm.classifier.encoder_unet import EncoderUNet
from ldm.config import build, resolved
from tests import configs
from tests.conftest import forked, scramble
from tests.training.stages import built, composed

GRAPHS = {"backend": "aot_eager", "fullgraph": True}
"""Options by which a network must be one graph, which is then computed operation by operation: no compiler is needed."""


@pytest.fixture(autouse=True)
def donated():
    """The option of torch that a run changes: what it was comes back."""
    with torch._functorch.config.patch(donated_buffer=True):
        yield


def names(task):
    return [type(network).__name__ for network in networks_of(task)]


def test_the_networks_of_each_stage(tmp_path):
    config = composed("experiment=txt2img", "debug=tiny", f"paths.runs_dir={tmp_path}")
    assert names(built("autoencoder", config, tmp_path).task) == ["Encoder", "Decoder", "PatchDiscriminator"]
    assert names(built("diffusion", config, tmp_path).task) == ["Encoder", "Decoder", "UNet"]


def icons():
    config = configs.composed("train", "experiment=txt2img", "debug=tiny")
    torch.manual_seed(0)
    return build(resolved(config)["autoencoder"]["network"]), build(resolved(config)["backbone"])


def same_when_compiled(network, call):
    """Check that a network is one graph, for another number of images, too, and gives the same images and gradients."""
    torch._functorch.config.donated_buffer = False
    scramble(network)
    expected = [call(network, count) for count in (2, 3)]
    network.compile(**GRAPHS)
    for (value, slope), (again, slope_again) in zip(expected, [call(network, count) for count in (2, 3)], strict=True):
        torch.testing.assert_close(value, again)
        torch.testing.assert_close(slope, slope_again)


def value_and_slope(network, value):
    parameter = next(network.parameters())
    (once,) = torch.autograd.grad(value.abs().mean(), parameter, retain_graph=True)
    (slope,) = torch.autograd.grad(value.square().mean(), parameter)
    return value.detach(), once + slope


def noise(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.slow
def test_a_u_net_is_one_graph_also_where_its_middle_is_seen():
    _, backbone = icons()
    seen = []
    backbone.deepest.register_forward_hook(lambda module, args, out: seen.append(out))
    width = backbone.conv_in.in_channels

    def call(network, count):
        condition = Condition(noise(count, 7, 32), torch.ones(count, 7, dtype=torch.bool))
        value = network(noise(count, width, 8, 8), torch.linspace(0.1, 0.9, count), condition)
        return value_and_slope(network, value + seen.pop().mean())

    same_when_compiled(backbone, call)


@pytest.mark.slow
def test_encoder_decoder_discriminator_and_classifier_are_one_graph_each():
    autoencoder, _ = icons()
    same_when_compiled(autoencoder.encoder, lambda net, count: value_and_slope(net, net(noise(count, 3, 32, 32))))
    latent = autoencoder.encode(noise(1, 3, 32, 32)).mean
    same_when_compiled(
        autoencoder.decoder, lambda net, count: value_and_slope(net, net(noise(count, *latent.shape[1:])))
    )
    discriminator = PatchDiscriminator(channels=8, layers=2, groups=4)
    same_when_compiled(discriminator, lambda net, count: value_and_slope(net, net(noise(count, 3, 32, 32))))
    classifier = EncoderUNet(2, model_channels=8, channel_mult=[1, 2], blocks=1, head_channels=8, groups=4,
                             attention_levels=[1])  # fmt: skip
    t = torch.tensor([0.1, 0.5, 0.9])
    same_when_compiled(classifier, lambda net, count: value_and_slope(net, net(noise(count, 2, 8, 8), t[:count])))


def test_networks_are_marked_once_and_only_where_that_is_asked_for():
    trainer, task = SimpleNamespace(is_global_zero=True), torch.nn.ModuleList(icons())
    Compile(None).setup(trainer, task, "fit")
    assert all(network._compiled_call_impl is None for network in networks_of(task))
    callback = Compile("default", backend="eager")
    callback.setup(trainer, task, "fit")
    marked = [network._compiled_call_impl for network in networks_of(task)]
    assert None not in marked
    assert not torch._functorch.config.donated_buffer, "the adaptive weight goes back through a decoder twice"
    callback.setup(trainer, task, "validate")
    assert marked == [network._compiled_call_impl for network in networks_of(task)]


def test_what_cannot_be_is_said_before_anything_is_written(monkeypatch):
    with pytest.raises(ValueError, match="compile=fastest cannot be"):
        Compile("fastest")
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(
        ValueError, match=r"compile=default needs a compiler of C\+\+, and this machine has none of g\+\+"
    ):
        Compile("default")
    Compile(None)


@pytest.mark.e2e
def test_a_run_is_the_same_with_it(tiny_run, places):
    options = ["train.py", "experiment=txt2img", "debug=tiny", "trainer=cpu", f"autoencoder.ckpt={tiny_run}", *places]
    options += ["stage=[diffusion_icons]", "stage.diffusion.callbacks.evaluation=null"]
    runs = tiny_run.parent
    text = forked(*options, "name=compiled", "compile=default", "stage.diffusion.callbacks.compile.backend=aot_eager")
    assert "compiles Encoder, Decoder, UNet (default); the first steps take long" in text
    forked(*options, "name=plain")
    losses = [read_metrics(runs / name / "diffusion" / "logs")["train/loss"] for name in ("compiled", "plain")]
    assert [step for step, _ in losses[0]] == [step for step, _ in losses[1]]
    torch.testing.assert_close(*[torch.tensor([value for _, value in found]) for found in losses], rtol=1e-2, atol=0)
    files = [load_file(runs / name / "model.safetensors") for name in ("compiled", "plain")]
    assert files[0].keys() == files[1].keys()
